"""What the search finds, what it costs, and what the service adds: docs/search.md in numbers.

    python -m bench.search --check               all parts, about 8 minutes
    python -m bench.search --parts strategies    some of: strategies, cost, trie, load
    python -m bench.search --truth               makes the exhaustive table anew (search_truth.py)

strategies: evolution beside random, the released search and NSGA-II, on the exhaustive table.
cost: what trie and racing save, and compute beside the released search. trie: seconds on the real
network, and a few entries of the table evaluated again. load: coordinator, database and API on a real
Postgres.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.common import RESULTS, Check, arguments, finish
from bench.search_cost import raced, trie, wall_clock
from bench.search_figure import hypervolume_png
from bench.search_load import load as coordinator_load
from bench.search_released import against_released
from bench.search_replay import Problem
from bench.search_strategies import EVALUATED_SHARE, SEEDS, budgets, strategies
from bench.search_truth import evaluate_batch, load, make, open_session
from sparsevit.search.trie_cost import MacTable, mac_table

PARTS = ("strategies", "cost", "trie", "load")
PLOT = RESULTS / "search-hypervolume.png"  # docs/ has a copy
AGAIN = 8
MOST_PIXELS = 2
"""Pixels of 8 label maps that another processor, which sums in another order, may tell apart."""


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, with commas")
    parser.add_argument("--truth", action="store_true", help="make the exhaustive table anew")
    options = parser.parse_args()
    if options.truth:
        make()
        return
    parts, seeds = options.parts.split(","), 2 if options.quick else SEEDS
    problem = Problem(load())
    shown = problem.truth.latency_map.facts["input"]
    macs = mac_table(problem.truth.latency_map.architecture, shown["height"], shown["width"])
    results: dict[str, Any] = {}
    checks: list[Check] = []
    if "strategies" in parts:
        results["strategies"], found = strategies(problem, seeds)
        results["budgets"] = budgets(problem, seeds)
        RESULTS.mkdir(exist_ok=True)
        PLOT.write_bytes(hypervolume_png(results["strategies"]["runs"]))
        checks += found
    if "cost" in parts:
        results["cost"], found = cost(problem, macs, seeds, options.quick)
        checks += found
    if "trie" in parts:
        results["trie"] = wall_clock(problem, macs, 16 if options.quick else 48)
        checks.append(again(problem))
    if "load" in parts:
        sizes = (500, 2_000) if options.quick else (10_000, 100_000)
        results["load"], found = coordinator_load(*sizes)
        checks += found
    finish("search", results, checks, options.check)


def cost(
    problem: Problem, macs: MacTable, seeds: int, quick: bool
) -> tuple[dict[str, Any], list[Check]]:
    """All that is counted in MACs."""
    tenth = int(EVALUATED_SHARE * problem.feasible.sum())
    found = {
        "trie": trie(quick),
        "racing": raced(problem, macs, seeds),
        "released": against_released(problem, macs, seeds, tenth),
    }
    checks = [check for _, some in found.values() for check in some]
    return {name: results for name, (results, _) in found.items()}, checks


def again(problem: Problem) -> Check:
    """Entries of the table evaluated here: the most that a count of pixels differs."""
    chosen = np.random.default_rng(0).permutation(len(problem.truth.genes))[:AGAIN]
    session = open_session()
    found = evaluate_batch(session, problem.truth.genes[chosen], 0)
    stored = problem.truth.states[chosen, : found.shape[1]]
    off = np.abs(found[..., session.model.metric["classes"]] - stored).sum(axis=1).max()
    return Check("table evaluated again: pixels that differ, at most", int(off), MOST_PIXELS, True)


if __name__ == "__main__":
    main()
