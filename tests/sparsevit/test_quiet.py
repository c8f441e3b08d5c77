"""DeviceLock between processes. The other process answers on its pipe: nothing here is timed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparsevit.errors import DeviceBusy
from sparsevit.latency.quiet import DeviceLock

HOLDER = """
import sys
from sparsevit.latency.quiet import DeviceLock
lock = DeviceLock(sys.argv[1], sys.argv[2])
print("waiting", flush=True)
with getattr(lock, sys.argv[3])():
    print("held", flush=True)
    sys.stdin.readline()
assert "torch" not in sys.modules
print("released", flush=True)
"""


class Holder:
    """A second process that takes the lock and gives it back when told to."""

    def __init__(self, folder: Path, uuid: str, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), uuid, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self.says() == "waiting"

    def says(self) -> str:
        return self.process.stdout.readline().strip()

    def release(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.says() == "released"


@contextmanager
def holder(folder: Path, how: str, uuid: str = "GPU-1") -> Iterator[Holder]:
    other = Holder(folder, uuid, how)
    try:
        yield other
    finally:
        other.process.kill()
        other.process.communicate()


@pytest.fixture
def lock(tmp_path: Path) -> DeviceLock:
    return DeviceLock(tmp_path / "quiet", "GPU-1")


def test_shared_holders_share(lock, tmp_path):
    with holder(tmp_path / "quiet", "shared") as other:
        assert other.says() == "held"
        with lock.shared(timeout=0):
            other.release()


def test_exclusive_waits_for_shared_and_gets_it_afterwards(lock, tmp_path):
    with holder(tmp_path / "quiet", "shared") as other:
        assert other.says() == "held"
        with pytest.raises(DeviceBusy, match="GPU-1"), lock.exclusive(timeout=0):
            pass
        other.release()
        with lock.exclusive(timeout=0):
            pass


def test_an_exclusive_holder_keeps_all_others_out(lock, tmp_path):
    with holder(tmp_path / "quiet", "exclusive") as other:
        assert other.says() == "held"
        for attempt in (lock.shared, lock.exclusive):
            with pytest.raises(DeviceBusy), attempt(timeout=0.05):
                pass
        other.release()
        with lock.shared(timeout=0):
            pass


def test_a_killed_holder_leaves_no_lock(lock, tmp_path):
    with holder(tmp_path / "quiet", "exclusive") as other:
        assert other.says() == "held"
        other.process.kill()
        other.process.wait()
        with lock.exclusive(timeout=0):
            pass


def test_a_waiting_measurement_goes_before_newcomers(lock, tmp_path):
    """While one process waits for the device alone, no new shared holder slips in."""
    with lock.shared(), holder(tmp_path / "quiet", "exclusive"):
        # The other process has the gate once a newcomer is turned away.
        turned_away, deadline = False, time.monotonic() + 30
        while not turned_away and time.monotonic() < deadline:
            try:
                with lock.shared(timeout=0.02):
                    time.sleep(0.02)
            except DeviceBusy:
                turned_away = True
        assert turned_away
    with lock.shared(timeout=5):
        pass


def test_devices_have_locks_of_their_own(lock, tmp_path):
    with holder(tmp_path / "quiet", "exclusive", uuid="GPU-2") as other:
        assert other.says() == "held"
        with lock.exclusive(timeout=0):
            pass


def test_a_failure_inside_releases_the_lock(lock):
    with pytest.raises(RuntimeError, match="inside"), lock.exclusive():
        raise RuntimeError("inside")
    with lock.exclusive(timeout=0):
        pass


def test_a_uuid_makes_a_plain_file_name(tmp_path):
    with DeviceLock(tmp_path, "../GPU 1/x").shared():
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {".._GPU_1_x.gate", ".._GPU_1_x.lock"}
