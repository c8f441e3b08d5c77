"""Our search and the released one to the same hypervolume, in compute.

The released search times 500 forwards of four images for every config it draws, feasible or not, and
evaluates its duplicates, one by one. Ours pays for one calibration and for the final measurement, and
evaluates a generation as a trie; racing is left out here. All of it is backbone MACs; time spent on
measuring is counted as dense forwards that would have fitted in.

The hypervolume to reach is the one that the released search ends with; its cost counts up to the
generation that first reached it. Wall time is computed: MACs, at the speed of a dense forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.common import Check, table
from bench.search_cost import evaluation_macs
from bench.search_replay import POPULATION, SCOPE, Problem, Trace, proposed, published
from sparsevit.search.choices import dense_ms
from sparsevit.search.steps import MEASURE_SECONDS
from sparsevit.search.trie_cost import MacTable, count_macs

LATENCY_IMAGES = 500 * 4
IMAGES = (500, 5000)
LENGTHS = {"a tenth of the feasible space": None, "30 generations": 30 * POPULATION}
LEAST_RATIO = 8.0
LAST_MEASUREMENTS = 2  # model and backbone, each at most MEASURE_SECONDS


@dataclass(frozen=True)
class Cost:
    """Forwards for one image, in dense ones. evaluation: for each image of the validation set."""

    timing: float
    evaluation: float

    def total(self, images: int) -> float:
        return self.timing + images * self.evaluation


def against_released(
    problem: Problem, macs: MacTable, seeds: int, tenth: int
) -> tuple[dict[str, Any], list[Check]]:
    dense = count_macs(macs, problem.truth.genes[:1]).one_by_one
    dense_s = dense_ms(problem.truth.latency_map, SCOPE) / 1e3
    results: dict[str, Any] = {"dense_macs": dense, "dense_seconds": dense_s}
    checks, rows = [], []
    for name, length in LENGTHS.items():
        pairs = [_pair(problem, macs, seed, length or tenth, dense_s) for seed in range(seeds)]
        results[name] = found = [_as_json(*pair) for pair in pairs]
        for images in IMAGES:
            ratio = float(np.median([one[f"ratio_{images}"] for one in found]))
            for who, which in (("released", 1), ("ours", 2)):
                costs = [pair[which] for pair in pairs]
                timing = np.median([cost.timing for cost in costs])
                evaluation = np.median([images * cost.evaluation for cost in costs])
                hours = np.median([cost.total(images) for cost in costs]) * dense_s / 3600
                cells = [f"{timing:,.0f}", f"{evaluation:,.0f}", f"{hours:.2f}"]
                rows.append([name, f"{images:,}", who, *cells, f"{ratio:.1f}"])
            if length is not None:
                title = f"released over ours at {images:,} images, forward MACs"
                checks.append(Check(title, ratio, LEAST_RATIO))
    reached = [pair[0] for pair in pairs]
    print(
        f"\nTo the hypervolume that the released search ends with ({min(reached):.2f} to "
        f"{max(reached):.2f} after 30 generations): dense forwards, medians of {seeds} seeds"
    )
    head = ["released runs for", "images", "search", "timing", "evaluation", "hours", "ratio"]
    print(table(head, rows))
    return results, checks


def _pair(
    problem: Problem, macs: MacTable, seed: int, length: int, dense_s: float
) -> tuple[float, Cost, Cost]:
    """The hypervolume, and what each of the two pays for it."""
    released = published(problem, seed, length)
    level = problem.hypervolume(released.rows)
    ours = proposed(problem, "evolution", seed, int(problem.feasible.sum()))
    measuring = problem.truth.seconds + LAST_MEASUREMENTS * MEASURE_SECONDS
    # Per image: a trace on one image more or less costs as much for every one of them.
    trie = evaluation_macs(problem, macs, ours, _reached(problem, ours, level))
    dense = count_macs(macs, problem.truth.genes[:1]).one_by_one
    return (
        level,
        _released_cost(problem, macs, released, _reached(problem, released, level), dense),
        Cost(measuring / dense_s, trie / problem.truth.images / dense),
    )


def _released_cost(
    problem: Problem, macs: MacTable, trace: Trace, generations: int, dense: int
) -> Cost:
    rows = [row for generation in trace.generations[:generations] for row in generation]
    each = count_macs(macs, problem.truth.genes[rows]).one_by_one / len(rows) / dense
    # What it draws beyond the budget is dearer than what it keeps: counted as if it were not.
    return Cost(sum(trace.timed[:generations]) * LATENCY_IMAGES * each, len(rows) * each)


def _reached(problem: Problem, trace: Trace, level: float) -> int:
    """After how many generations the hypervolume is reached."""
    rows: list[int] = []
    for number, generation in enumerate(trace.generations, 1):
        rows += generation
        if problem.hypervolume(rows) >= level:
            return number
    raise AssertionError("a search of the whole space reaches every hypervolume")


def _as_json(level: float, released: Cost, ours: Cost) -> dict[str, Any]:
    ratios = {f"ratio_{images}": released.total(images) / ours.total(images) for images in IMAGES}
    return {"hypervolume": level, "released": vars(released), "ours": vars(ours), **ratios}
