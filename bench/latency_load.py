"""Measurements while a second process burns all cores for part of the time.

Every trial measures one config of the digits network beside dense while the load comes and goes, and
once more after it without. As in a search, where the latency map knows it, the dense network's latency
on the quiet machine is given: the shortest that was seen so far.

The quiet value is what measurements without the planted load say. On a shared host neighbours disturb
those as well: only the ones count that are not disturbed and whose dense network was as fast as it was
known to be at the trial, give or take 4%; the last one before the trial and the first one after it. A
trial is sound where its interval holds what these say, or where it is marked disturbed. A host that
becomes faster than it ever was is no fault of a measurement before; how many are sound with the fastest
minute of the whole run as the quiet one is printed as well.
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
from sparsevit.latency.sampling import SLOWED
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.tasks.files import load_model

RATIO = 0.6
SECONDS = 20.0
SOUND, DISTURBED = 0.9, 0.4  # at least, at most, of the trials
ALIKE = 0.04
"""A dense network that is off its quiet latency by more than this share was not alone."""
LEARN = 6
"""Measurements before the first trial, from which the quiet speed is learnt: together they take up to
two minutes, as a calibration does."""
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
    alone = [timed(model, image, None) for _ in range(LEARN)]
    loads, loaded, known = [], [], []
    rng = np.random.default_rng(0)
    for number in range(trials):
        known.append(min(one.reference_p50 for one in alone))
        loads.append((rng.uniform(0, 1.0), rng.uniform(0.5, 3.0)))
        with burning(*loads[-1]):
            loaded.append(timed(model, image, known[-1]))
        alone.append(timed(model, image, known[-1]))
        print(f"planted load: {number + 1} of {trials}", flush=True)
    found = judged(loads, loaded, alone, known)
    fastest = [min(one.reference_p50 for one in alone)] * trials
    sound = _sound(judged(loads, loaded, alone, fastest))
    checks = _report(found)
    print(f"\nsound if only the fastest minute of the run is quiet: {sound:.0%}")
    quiet = quiet_among(alone, fastest[0])
    print(f"as fast as that: {len(quiet)} of {len(alone)} measurements without the load")
    timings = {"loaded": loaded, "alone": alone}
    return {
        "trials": found,
        "known_ms": known,
        "sound_by_fastest": sound,
        **{name: [one.to_dict() for one in each] for name, each in timings.items()},
    }, checks


def judged(
    loads: Sequence[tuple[float, float]],
    loaded: Sequence[Measurement],
    alone: Sequence[Measurement],
    known: Sequence[float],
) -> list[dict[str, Any]]:
    """Every trial with what it is held against. alone: `LEARN` and one after each trial. known: ms that
    dense takes on the quiet machine, of each trial."""
    found = []
    for number, ((begin, length), one, dense_ms) in enumerate(
        zip(loads, loaded, known, strict=True)
    ):
        quiet = quiet_among(alone, dense_ms)
        verdict = trial(one, *around(quiet, LEARN + number))
        found.append({"begin": begin, "length": length, "known": dense_ms, **verdict})
    return found


def quiet_among(alone: Sequence[Measurement], dense_ms: float) -> dict[int, Measurement]:
    """Those of the measurements without the load during which dense took what it takes on the quiet
    machine; the one that says what that is, at least."""
    return {
        number: one
        for number, one in enumerate(alone)
        if abs(one.reference_p50 / dense_ms - 1) <= ALIKE
        and (not one.disturbed or one.reference_p50 == dense_ms)
    }


def around(quiet: dict[int, Measurement], number: int) -> list[Measurement]:
    """The last quiet one before that number and the first from there on, or the one there is."""
    before = [one for place, one in quiet.items() if place < number]
    after = [one for place, one in quiet.items() if place >= number]
    return [*before[-1:], *after[:1]]


def _report(found: Sequence[dict[str, Any]]) -> list[Check]:
    shown = ("begin", "length", "known", "quiet_low", "quiet_high", "low", "high")
    shown += ("quiet_ratio", "ratio", "set_aside", "slower", "holds", "disturbed")
    rows = [[_text(one[name]) for name in shown] for one in found]
    print("\n" + table(["load from s", "for s", "dense known", *shown[3:]], rows))
    disturbed = sum(one["disturbed"] for one in found) / len(found)
    return [
        Check("trials under load that are sound, share", _sound(found), SOUND),
        Check("trials marked disturbed, share", disturbed, DISTURBED, at_most=True),
    ]


def _sound(found: Sequence[dict[str, Any]]) -> float:
    return sum(one["holds"] or one["disturbed"] for one in found) / len(found)


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


def trial(loaded: Measurement, *quiet: Measurement) -> dict[str, Any]:
    """The quiet value moves a little: it lies between those before and after."""
    in_ms, ratios = sorted(one.p50 for one in quiet), sorted(one.ratio for one in quiet)
    if loaded.slower > SLOWED:
        holds = _overlap(loaded.ratio_interval, (ratios[0], ratios[-1]))
    else:
        holds = _overlap(loaded.interval, (in_ms[0], in_ms[-1]))
    return {
        "quiet_low": in_ms[0],
        "quiet_high": in_ms[-1],
        "low": loaded.interval[0],
        "high": loaded.interval[1],
        "set_aside": loaded.set_aside,
        "slower": loaded.slower,
        "ratio": loaded.ratio,
        "quiet_ratio": float(np.mean(ratios)),
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
