"""Strategies beside each other: how much of the exhaustive front each finds in as many evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.common import Check, table
from bench.search_replay import Problem, Trace, search

SEEDS = 10
NAMES = ("evolution", "random", "released", "nsga2")
SHOWN = {"released": "released, as published", "nsga2": "NSGA-II (pymoo)"}
EVALUATED_SHARE = 0.1
BUDGET_SHARES = (0.6, 0.7, 0.8, 0.9)
LEAST_HYPERVOLUME = 0.98
WITHIN_POINTS = 0.5
LEAST_SEEDS = 9


def strategies(problem: Problem, seeds: int) -> tuple[dict[str, Any], list[Check]]:
    """Every strategy from every seed, in a tenth of the feasible space."""
    limit = int(EVALUATED_SHARE * problem.feasible.sum())
    found = {
        name: [summary(problem, search(problem, name, seed, limit)) for seed in range(seeds)]
        for name in NAMES
    }
    dense, best = (100 * problem.truth.metric[0], 100 * problem.best)
    print(
        f"\n{len(problem.truth.genes)} configs, {problem.feasible.sum()} within "
        f"{problem.budget_ms:.2f} ms ({problem.share:.0%} of dense, backbone), "
        f"{len(problem.front)} of them on the front; {limit} evaluations, "
        f"{seeds} seeds; dense {dense:.2f}, best {best:.2f} points"
    )
    columns = ("hypervolume (range)", "points below the best", "duplicates", "beyond the budget")
    print(table(["strategy", *columns], [_row(name, rows) for name, rows in found.items()]))
    results = {
        "budget_ms": problem.budget_ms,
        "reference": problem.reference,
        "feasible": int(problem.feasible.sum()),
        "front": problem.truth.genes[problem.front].tolist(),
        "limit": limit,
        "runs": found,
    }
    return results, _checks(found)


def budgets(problem: Problem, seeds: int) -> dict[str, dict[str, float]]:
    """The same comparison under other budgets: mean hypervolumes."""
    results, rows = {}, []
    for share in BUDGET_SHARES:
        other = replace(problem, share=share)
        limit = int(EVALUATED_SHARE * other.feasible.sum())
        means = {
            name: float(
                np.mean(
                    [
                        other.hypervolume(search(other, name, seed, limit).rows)
                        for seed in range(seeds)
                    ]
                )
            )
            for name in NAMES
        }
        results[f"{share:.0%}"] = means
        rows.append([f"{share:.0%}", str(limit), *(f"{mean:.3f}" for mean in means.values())])
    print(f"\nMean hypervolume under other budgets, {seeds} seeds")
    head = ["budget", "evaluations", *(SHOWN.get(name, name) for name in NAMES)]
    print(table(head, rows))
    return results


def summary(problem: Problem, trace: Trace) -> dict[str, Any]:
    """hypervolume: after every evaluation. below: the winner's metric, in points below the best."""
    rows = trace.rows
    return {
        "hypervolume": [problem.hypervolume(rows[: n + 1]) for n in range(len(rows))],
        "below": 100 * (problem.best - float(problem.truth.metric[rows].max())),
        "duplicates": len(rows) - len(set(rows)),
        "infeasible": int((~problem.feasible[rows]).sum()),
        "timed": sum(trace.timed),
    }


def ends(runs: Sequence[dict[str, Any]]) -> list[float]:
    """The hypervolume each run ends with."""
    return [run["hypervolume"][-1] for run in runs]


def _row(name: str, runs: Sequence[dict[str, Any]]) -> list[str]:
    final, below = ends(runs), [run["below"] for run in runs]
    return [
        SHOWN.get(name, name),
        f"{np.mean(final):.4f} ({min(final):.3f} to {max(final):.3f})",
        f"{np.mean(below):.2f} (at most {max(below):.2f})",
        str(sum(run["duplicates"] for run in runs)),
        str(sum(run["infeasible"] for run in runs)),
    ]


def _checks(found: dict[str, list[dict[str, Any]]]) -> list[Check]:
    ours = found["evolution"]
    mean = float(np.mean(ends(ours)))
    near = sum(run["below"] <= WITHIN_POINTS for run in ours)
    checks = [
        Check("hypervolume of the exhaustive front's, mean", mean, LEAST_HYPERVOLUME),
        Check("seeds within .5 points of the best metric", near, LEAST_SEEDS * len(ours) / SEEDS),
        Check("duplicate evaluations", sum(run["duplicates"] for run in ours), 0, at_most=True),
        Check("infeasible evaluations", sum(run["infeasible"] for run in ours), 0, at_most=True),
    ]
    for name in NAMES[1:]:
        other = float(np.mean(ends(found[name])))
        checks.append(Check(f"hypervolume over {SHOWN.get(name, name)}'s", mean - other, 0))
    return checks
