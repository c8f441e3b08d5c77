"""Measurements while a second process burns all cores for part of the time.

Every trial measures one config of the digits network beside dense while the load comes and goes, and
once more before and after it without. As in a search, where the latency map knows it, the dense
network's latency on the quiet machine is given: the shortest that was seen so far. A trial is sound
where its interval holds what the two quiet measurements say, or where it is marked disturbed.

On a shared host neighbours come and go as well. Where a measurement without the planted load was
disturbed or slower itself, or where the two before and after differ, nobody can say what the quiet
value is: the trial is left out and made again, and how often that happened is printed.
A trial that was slow itself is held against the quiet ratio to dense, which is the stricter test: its
interval in milliseconds reaches down to the known speed whatever was measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bench.common import Check, table
from sparsevit.latency.allocator import keep_memory
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.meter import measure
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.tasks.files import load_model

RATIO = 0.6
SECONDS = 20.0
SOUND, DISTURBED = 0.9, 0.4  # at least, at most, of the trials
ALIKE = 0.04
"""Two quiet measurements differ by this share of the latency at most."""
MOST_TRIED = 3
"""So many times the trials that were asked for are tried."""
BURN = """
import sys, time
time.sleep(float(sys.argv[1]))
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    sum(i * i for i in range(1000))
"""


def planted_load(trials: int) -> tuple[dict[str, Any], list[Check]]:
    keep_memory()
    model = load_model("builtin:digits").backbone
    image = torch.randn(1, 3, 448, 448)
    found, left_out = judged(model, image, trials)
    sound = sum(one["holds"] or one["disturbed"] for one in found)
    disturbed = sum(one["disturbed"] for one in found)
    shown = ("begin", "length", "quiet_low", "quiet_high", "low", "high")
    shown += ("quiet_ratio", "ratio", "set_aside", "slower", "holds", "disturbed")
    rows = [[_text(one[name]) for name in shown] for one in found]
    print("\n" + table(["load from s", "for s", *shown[2:]], rows))
    print(f"\nleft out since the machine was not quiet without the load: {left_out}")
    count = max(1, len(found))
    checks = [
        Check("trials under load that could be judged", len(found), trials),
        Check("trials under load that are sound, share", sound / count, SOUND),
        Check("trials marked disturbed, share", disturbed / count, DISTURBED, at_most=True),
    ]
    return {"trials": found, "left_out": left_out}, checks


def judged(model: Any, image: torch.Tensor, trials: int) -> tuple[list[dict[str, Any]], int]:
    """Trials between two quiet measurements that agree, and how many others were made."""
    rng, found = np.random.default_rng(0), []
    before = timed(model, image, None)
    dense_ms = before.reference_p50
    for tried in range(MOST_TRIED * trials):
        if len(found) == trials:
            return found, tried - trials
        begin, length = rng.uniform(0, 1.0), rng.uniform(0.5, 3.0)
        if not _quiet(before):
            before = timed(model, image, dense_ms)
        with burning(begin, length):
            loaded = timed(model, image, dense_ms)
        after = timed(model, image, dense_ms)
        if _quiet(before) and _quiet(after) and abs(after.p50 / before.p50 - 1) <= ALIKE:
            found.append(trial(begin, length, before, loaded, after))
        print(f"planted load: {tried + 1} tried, {len(found)} of {trials} judged", flush=True)
        before, dense_ms = after, min(dense_ms, after.reference_p50)
    return found, MOST_TRIED * trials - len(found)


def _quiet(measurement: Measurement) -> bool:
    return not measurement.disturbed and not measurement.slower


@torch.inference_mode()
def timed(model: Any, image: torch.Tensor, dense_ms: float | None) -> Measurement:
    def run(ratio: float) -> Any:
        model.set_sparsity(SparsityConfig.uniform(model.config.pairs, ratio))
        return model(image)

    return measure(
        lambda: run(RATIO),
        reference=lambda: run(0.0),
        device=torch.device("cpu"),
        max_seconds=SECONDS,
        quiet_ms=dense_ms,
    )


def trial(
    begin: float, length: float, quiet: Measurement, loaded: Measurement, after: Measurement
) -> dict[str, Any]:
    """The quiet value moves with the machine: it lies between the one before and the one after."""
    low, high = sorted((quiet.p50, after.p50))
    ratios = sorted((quiet.ratio, after.ratio))
    if loaded.slower:
        holds = _overlap(loaded.ratio_interval, ratios)
    else:
        holds = _overlap(loaded.interval, (low, high))
    return {
        "begin": begin,
        "length": length,
        "quiet_low": low,
        "quiet_high": high,
        "low": loaded.interval[0],
        "high": loaded.interval[1],
        "set_aside": loaded.set_aside,
        "slower": loaded.slower,
        "ratio": loaded.ratio,
        "quiet_ratio": (quiet.ratio + after.ratio) / 2,
        "holds": holds,
        "disturbed": loaded.disturbed,
    }


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


@contextmanager
def burning(begin: float, length: float) -> Iterator[None]:
    """One busy process for each core, from `begin` seconds from now on for `length` seconds."""
    command = [sys.executable, "-c", BURN, str(begin), str(length)]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
        time.sleep(0.2)


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
