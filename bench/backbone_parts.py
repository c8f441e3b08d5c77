"""Where the backbone's time goes, and how much memory a forward takes at its peak."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from bench.common import table
from bench.peers import PEERS, installed_peers
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

RATIOS = (0.0, 0.6)
# What each of torch's operators is for here; what is in no list is counted as `other`.
KINDS = {
    "matrix products": ("addmm", "mm", "bmm", "linear"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu", "_flash_attention_forward"),
    "normalisation": ("native_layer_norm",),
    "GELU": ("gelu",),
    "reading and writing windows": ("index_select", "index_copy_", "index", "gather"),
    "copies": ("copy_", "cat", "clone"),
    "additions": ("add", "add_"),
    "patch embedding": ("mkldnn_convolution", "cudnn_convolution", "convolution"),
    "scores and ranking": ("linalg_vector_norm", "sum", "mean", "sort", "pow"),
}


def where_time_goes(device: str, size: tuple[int, int]) -> dict[str, float]:
    """Shares of self time by kind of operator, Swin-T fp32 at .6 with score l2; printed too."""
    model, images = _ours(0.6, device), torch.randn(1, 3, *size, device=device)
    cuda = torch.device(device).type == "cuda"
    activity = torch.profiler.ProfilerActivity
    with torch.inference_mode():
        for _ in range(3):
            model(images)
        with torch.profiler.profile(
            activities=[activity.CPU, activity.CUDA] if cuda else [activity.CPU]
        ) as profiler:
            for _ in range(5):
                model(images)
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = kinds.get(event.key.removeprefix("aten::"), "other")
        times[kind] += event.self_device_time_total if cuda else event.self_cpu_time_total
    shares = {kind: value / times.total() for kind, value in times.most_common()}
    print(f"\nSwin-T at .6, {size[0]} x {size[1]}, fp32: where the time goes\n")
    print(table(["part", "share"], [[kind, f"{share:.1%}"] for kind, share in shares.items()]))
    return shares


def peak_memory(device: str, size: tuple[int, int]) -> dict[str, float]:
    """MB that one forward takes beyond the idle model and its input, Swin-T fp32; printed too.

    Each in a process of its own: memory that one case freed may still be held for the next.
    """
    cases = [*(f"ours {ratio:g}" for ratio in RATIOS), *PEERS]
    found = {}
    for case in cases:
        command = [sys.executable, "-m", "bench.backbone_parts", case, device, *map(str, size)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            found[case] = float(done.stdout.split()[-1])
        elif case.startswith("ours") or importlib.util.find_spec(case) is not None:
            raise RuntimeError(done.stderr)
    print(f"\nSwin-T, {size[0]} x {size[1]}, fp32: peak memory of one forward\n")
    print(table(["", "MB"], [[case, f"{mb:.0f}"] for case, mb in found.items()]))
    return found


def _ours(ratio: float, device: str) -> SparseSwin:
    model = SparseSwin().eval().to(device)
    model.set_sparsity(SparsityConfig.uniform(model.config.pairs, ratio, "l2"))
    return model


def _measure(case: str, device: str, size: tuple[int, int]) -> float:
    torch.set_num_threads(1)
    if case.startswith("ours"):
        model: nn.Module = _ours(float(case.split()[1]), device)
    else:
        model = installed_peers(SwinConfig(), size)[case].to(device)
    with torch.inference_mode():
        images = torch.randn(1, 3, *size, device=device)
        if torch.device(device).type == "cuda":
            return _cuda_peak(model, images)
        return _resident_peak(model, images)


def _cuda_peak(model: nn.Module, images: torch.Tensor) -> float:
    model(images)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model(images)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _resident_peak(model: nn.Module, images: torch.Tensor) -> float:
    """Resident pages, looked at every millisecond by another thread while the forward runs."""
    peak, done, before = 0, threading.Event(), _resident()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model(images)
    done.set()
    watcher.join()
    return (peak - before) / 2**20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    print(_measure(sys.argv[1], sys.argv[2], (int(sys.argv[3]), int(sys.argv[4]))))
