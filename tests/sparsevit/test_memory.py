"""Allocators, memory limits, and the size that still fits."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sparsevit.errors import DeviceOutOfMemory
from sparsevit.latency.allocator import preloaded
from sparsevit.latency.memory import available_bytes, largest_size, memory_errors


def in_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_memory_that_is_kept_causes_no_page_faults():
    """A large buffer made and dropped over and over: its pages come from the system once."""
    code = """
import resource, torch
from sparsevit.latency.allocator import allocator, keep_memory
assert allocator() == "system default"
assert keep_memory()
assert allocator() == "glibc, memory kept"
for _ in range(20):
    torch.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    pages_of_one = 2**22 * 4 // 4096
    assert int(in_new_process(code)) < pages_of_one


def test_a_preloaded_allocator_is_named(tmp_path):
    mappings = tmp_path / "maps"
    mappings.write_text("7f00-7f01 r-xp 00000000 08:01 42 /usr/lib/libjemalloc.so.2\n")
    assert preloaded(mappings) == "jemalloc"
    mappings.write_text("7f00-7f01 r-xp 00000000 08:01 42 /usr/lib/libc.so.6\n")
    assert preloaded(mappings) is None
    assert preloaded(tmp_path / "missing") is None


def test_too_large_an_allocation_is_an_error_before_the_system_kills():
    code = """
import torch
from sparsevit.errors import DeviceOutOfMemory
from sparsevit.latency.memory import available_bytes, limit_memory, memory_errors
assert limit_memory()
kept = []
try:
    with memory_errors():
        for _ in range(1000):  # each fits, all of them do not
            kept.append(torch.empty(available_bytes() // 8, dtype=torch.uint8))
            if len(kept) > 20:
                raise SystemExit("nothing stopped it")
except DeviceOutOfMemory as error:
    print(error)
"""
    assert "smaller input or batch" in in_new_process(code)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="inconsistent"), memory_errors():
        torch.zeros(3) @ torch.zeros(4)
    with pytest.raises(DeviceOutOfMemory), memory_errors():
        raise MemoryError


def test_the_memory_there_is_can_be_told():
    assert available_bytes() > 2**20


@pytest.mark.parametrize("side", [64, 320, 600, 1000])
def test_the_largest_size_that_fits_is_found(side):
    tried = []

    def fits(height, width):
        tried.append((height, width))
        return height <= side

    found = largest_size(fits, 1024, 2048)
    assert found is not None
    height, width = found
    assert side - 1024 / 16 - 32 <= height <= side
    assert width == 2 * height
    assert len(tried) == 4


def test_where_nothing_fits_none_is_named():
    assert largest_size(lambda height, width: False, 1024, 1024) is None
