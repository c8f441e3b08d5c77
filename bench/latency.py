"""Whether a latency can be trusted: the map against whole models, its speed, and foreign load.

    python -m bench.latency                    all parts on the CPU, and on a GPU where there is one
    python -m bench.latency --parts map,space  some of: map, space, load, memory

map: Swin-T at 448 and 672 pixels: a map is built, then 30 random configs are measured in whole
models and compared with what it predicted. space: how long predicting and filtering every config of
Swin-T and Swin-L takes. load: a second process burns all cores for part of a measurement. memory:
page faults and latency with memory given back to the system and with memory kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.common import RESULTS, Check, arguments, finish, table
from bench.latency_load import planted_load
from bench.latency_memory import memory
from sparsevit.data.digits import CLASSES
from sparsevit.latency.accuracy import errors
from sparsevit.latency.calibrate import WholeRuns
from sparsevit.plots import residuals_png
from sparsevit.search.answers import summary
from sparsevit.search.choices import search_space
from sparsevit.search.latency_map import SCOPES, LatencyMap
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import Session
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.semantic import SegmentationModel

SIZES = (448, 672)
CONFIGS = 30
PASSES, SECONDS = 2, 120.0
"""So often the configs of a map are measured, and so long each time at the first of the sizes; longer
at larger ones, for as many samples there."""
PARTS = ("memory", "space", "load", "map")
SPACES = {"Swin-T": (1, 1, 3, 1), "Swin-L": (1, 1, 9, 1)}
PLOT = RESULTS / "latency-residuals.png"  # docs/ has a copy


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, with commas")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="pixels of the maps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--trials", type=int, default=20, help="measurements under planted load")
    options = parser.parse_args()
    parts = options.parts.split(",")
    results: dict[str, Any] = {"threads": options.threads}
    checks: list[Check] = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        if "map" in parts:
            sizes = [int(size) for size in options.sizes.split(",")]
            sizes = sizes[:1] if options.quick else sizes
            results[f"map_{device}"], found = maps(device, sizes, options.threads, options.quick)
            checks += found
    if "memory" in parts:
        results["memory"], found = memory()
        checks += found
    if "space" in parts:
        results["space"], found = spaces()
        checks += found
    if "load" in parts:
        results["load"], found = planted_load(2 if options.quick else options.trials)
        checks += found
    finish("latency", results, checks, options.check)


def maps(
    device: str, sizes: Sequence[int], threads: int, quick: bool
) -> tuple[dict[str, Any], list[Check]]:
    results, checks, rows = {}, [], []
    for size in sizes:
        found = one_map(device, size, threads, quick)
        print(f"{device}, {size} px: off by {found['model']['mean_error']:.1%}", flush=True)
        results[str(size)] = found
        for scope in SCOPES:
            one = found[scope]
            numbers = ("mean_error", "max_error", "rank_correlation", "noise_floor")
            rows.append(
                [f"{device}, {size} px", scope, f"{found['seconds']:.0f} s", found["corrected"]]
                + [f"{one[name]:.4f}" for name in numbers]
                + [f"{one['again'][name]:.4f}" for name in ("mean_error", "rank_correlation")]
            )
        one, name = found["model"], f"{device} {size} px"
        limit = max(0.02, 2 * one["noise_floor"])
        checks.append(Check(f"{name}: mean error", one["mean_error"], limit, at_most=True))
        checks.append(Check(f"{name}: rank correlation", one["rank_correlation"], 0.98))
        if size == SIZES[0]:
            checks.append(Check(f"{name}: seconds to build", found["seconds"], 120.0, at_most=True))
    print(f"\nSwin-T, {CONFIGS} random configs, {threads} threads on a CPU")
    head = ["input", "scope", "built in", "corrected", "mean error", "max error", "rank", "noise"]
    print(table([*head, "again: error", "rank"], rows))
    print("again: the second measurement of the same configs held against the first")
    return results, checks


def one_map(device: str, size: int, threads: int, quick: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    model = SegmentationModel(SparseSwin(SwinConfig()), CLASSES, background=0)
    session = Session(
        model,
        {"path": "builtin:digits", "limit": 4},
        device,
        {"height": size, "width": size, "threads": threads if device == "cpu" else None},
    )
    start = time.perf_counter()
    latency_map = LatencyMap.from_dict(session.calibrate()["map"])
    seconds = time.perf_counter() - start
    print(f"{device}, {size} px: a map in {seconds:.1f} s; whole models follow", flush=True)
    space = search_space(session.inspect(), None)
    genes = space.sample(np.random.default_rng(1), 4 if quick else CONFIGS)
    found: dict[str, Any] = {
        "seconds": seconds,
        "corrected": latency_map.accuracy["corrected"],
        "own_check": latency_map.accuracy,
        "dense_ms": latency_map.dense_ms,
        "padding": summary(latency_map, space)["padding"],
    }
    whole = WholeRuns(session.model, session.latency_images(1), session.score, threads, "eager")
    for scope in SCOPES:
        seconds_each = SECONDS * (size / SIZES[0]) ** 2
        found[scope] = compare(whole, latency_map, genes, scope, seconds_each)
    if device == "cpu" and size == SIZES[0] and not quick:
        draw(found["model"])
    return found


def compare(
    whole: WholeRuns, latency_map: LatencyMap, genes: np.ndarray, scope: str, seconds: float
) -> dict[str, Any]:
    """Errors of the map's predictions, as shares, against drift-corrected measurements.

    Everything is measured twice, and what the two say together is the truth: how well the second
    agrees with the first is the best that any prediction could be seen to do.
    """
    forward = whole.model if scope == "model" else whole.model.backbone
    runs = [(forward, tuple(row)) for row in genes.tolist()]
    passes = [whole.measure(runs, seconds, quiet_ms=latency_map.dense_ms) for _ in range(PASSES)]
    timings = [timing for one in passes for timing in one]
    ratios = np.array([[timing.ratio for timing in one] for one in passes])
    dense_ms = float(np.mean([one[0].reference_p50 for one in passes]))
    measured = ratios.mean(0) * dense_ms
    predicted = latency_map.predict(genes, scope)
    # At the speed of the device now: what may have changed since the map was made is its clock.
    speed = dense_ms / latency_map.dense_ms
    return {
        **errors(predicted * speed, measured),
        "again": errors(ratios[1], ratios[0]),
        "mean_error_at_the_old_speed": errors(predicted, measured)["mean_error"],
        "speed": speed,
        "noise_floor": float(np.median([timing.noise_floor for timing in timings])),
        "drift": max(timing.drift for timing in timings),
        "slower": max(one[0].slower for one in passes),
        "predicted_ms": (predicted * speed).tolist(),
        "measured_ms": measured.tolist(),
    }


def draw(found: dict[str, Any]) -> None:
    title = f"Swin-T at {SIZES[0]} px: {CONFIGS} random configs, off by {found['mean_error']:.1%}"
    png = residuals_png(found["predicted_ms"], found["measured_ms"], found["noise_floor"], title)
    RESULTS.mkdir(exist_ok=True)
    PLOT.write_bytes(png)


def spaces() -> tuple[dict[str, Any], list[Check]]:
    """Predicting every config and comparing it with a budget, in a process of its own each."""
    import subprocess
    import sys

    results, checks, rows = {}, [], []
    for name, limit in (("Swin-T", 0.02), ("Swin-L", 1.0)):
        code = f"from bench.latency_space import filter_all; filter_all({SPACES[name]})"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak, count, feasible = map(float, done.stdout.split())
        results[name] = {"seconds": seconds, "peak_mb": peak / 1e6, "configs": int(count)}
        rows.append([name, f"{int(count):,}", f"{1e3 * seconds:.1f}", f"{peak / 1e6:.0f}"])
        checks.append(Check(f"{name}: seconds to filter all", seconds, limit, at_most=True))
        checks.append(Check(f"{name}: GB of memory at most", peak / 1e9, 1.0, at_most=True))
        assert int(count) == SearchSpace(SPACES[name], (1,) * 4).size
        assert feasible > 0
    print("\n" + table(["space", "configs", "ms to predict and filter", "peak MB"], rows))
    return results, checks


if __name__ == "__main__":
    main()
