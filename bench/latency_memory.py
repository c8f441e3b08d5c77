"""What giving memory back costs: page faults and latency of the digits network, both ways.

Each way runs in a process of its own; dense and sparse forwards take turns in it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from bench.common import Check, table

RATIOS = (0.0, 0.6)
CALLS = 60


def memory() -> tuple[dict[str, Any], list[Check]]:
    results: dict[str, Any] = {}
    for name in ("given back", "kept"):
        code = f"from bench.latency_memory import time_forwards; time_forwards({name!r})"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results[name] = json.loads(done.stdout)
    rows = [
        [name, f"{ratio:.1f}", f"{one['ms']:.1f}", f"{one['faults']:.0f}"]
        for name, found in results.items()
        for ratio, one in zip(RATIOS, found, strict=True)
    ]
    print("\n" + table(["memory is", "ratio", "ms of thread time", "page faults a call"], rows))
    worst = max(one["faults"] for one in results["kept"])
    return results, [Check("page faults a call where memory is kept", worst, 0.0, at_most=True)]


def time_forwards(name: str) -> None:
    """Prints ms and page faults of a call by ratio, as JSON."""
    import torch

    from sparsevit.latency.allocator import keep_memory
    from sparsevit.sparsity.config import SparsityConfig
    from sparsevit.tasks.files import load_model

    if name == "kept":
        keep_memory()
    torch.set_num_threads(1)
    backbone = load_model("builtin:digits").backbone
    image = torch.randn(1, 3, 448, 448)
    ms: dict[float, list[float]] = {ratio: [] for ratio in RATIOS}
    faults: dict[float, list[int]] = {ratio: [] for ratio in RATIOS}
    with torch.inference_mode():
        for _ in range(CALLS):
            for ratio in RATIOS:
                backbone.set_sparsity(SparsityConfig.uniform(backbone.config.pairs, ratio))
                before, start = _faults(), time.thread_time()
                backbone(image)
                ms[ratio].append(1e3 * (time.thread_time() - start))
                faults[ratio].append(_faults() - before)
    settled = slice(CALLS // 2, None)
    found = [
        {"ms": float(np.median(ms[r][settled])), "faults": float(np.median(faults[r][settled]))}
        for r in RATIOS
    ]
    print(json.dumps(found))


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
