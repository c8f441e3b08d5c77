"""The choices of a search that are plain arithmetic on its latency map and its evaluations.

Shared by the in-process search and the service's coordinator, so that both take the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from sparsevit.errors import BudgetUnreachable, ConfigError
from sparsevit.search.evolution import Evaluation
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.resolutions import size_text
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes

SETTLED_BY_INSPECTION = ("input", "preprocess", "score", "task", "evaluation_threads")
"""What an inspection settles of a session's arguments: from then on every session of the search,
whoever opens it, computes the same thing."""

BEST = 3
"""Finalists that are simply the best by metric."""

PREDICTION_SLACK = 1.03
"""Predictions are off by a percent or two: a uniform config this little over the budget may be
within it, and the baseline must not be weakened by a prediction."""

SAFE_SHARES = (0.96, 0.9)
"""One finalist each is predicted this far below the budget, in case the others turn out slower."""

NEAREST_MARGIN = 0.05
"""How far the nearest possible budget lies above the fastest prediction."""

WORTHWHILE = 0.02
"""Less than this share of the dense latency, or than twice the noise floor, is within the noise:
sparsity does not pay then."""

RESOLUTION_UNREACHABLE = "RESOLUTION_UNREACHABLE"
"""Verdict: at one of the inputs no config meets the budget, so nothing was searched there."""

UNIFORM = 3
"""Uniform configs measured beside the finalists: the best predicted feasible, and two in reserve."""


def search_space(inspection: Mapping[str, Any], levels: Sequence[int] | None) -> SearchSpace:
    """The configs of the inspected network at the levels asked for (None: all)."""
    pairs, windows = inspection["architecture"]["pairs"], inspection["windows"]
    if levels is None:
        return SearchSpace(tuple(pairs), tuple(windows))
    return SearchSpace(tuple(pairs), tuple(windows), tuple(levels))


def dense_ms(latency_map: LatencyMap, scope: Scope) -> float:
    """Latency of the dense network: measured for the model, predicted for the backbone alone."""
    if scope == "model":
        return latency_map.dense_ms
    return float(latency_map.predict((0,) * len(latency_map.pair_ms), scope="backbone"))


def dense_ratio(first: LatencyMap, latency_map: LatencyMap, scope: Scope) -> float:
    """The dense latency at the first input of a search, of which a budget may be a share, as a
    multiple of that at the map's; exactly 1 at the first one."""
    return dense_ms(first, scope) / dense_ms(latency_map, scope)


def parse_budget(budget: float | str, dense: float) -> float:
    """A budget in ms, or a share of the dense latency such as "60%", in ms."""
    if not isinstance(budget, str):
        return float(budget)
    try:
        share = float(budget.strip().removesuffix("%"))
    except ValueError:
        share = -1.0
    if not budget.strip().endswith("%") or not 0 < share <= 100:
        raise ConfigError(
            f'the budget {budget!r} is neither milliseconds nor a share such as "60%".'
        )
    return dense * share / 100


def reachable_budget(
    budget: float | str,
    latency_map: LatencyMap,
    space: SearchSpace,
    scope: Scope,
    first: LatencyMap | None = None,
) -> float:
    """The latency budget in ms. A share is one of the dense latency by `first` (None: by the map).

    Raises BudgetUnreachable, naming the nearest budget that can be met, where no config is
    predicted to meet it.
    """
    dense = dense_ms(first or latency_map, scope)
    budget_ms = parse_budget(budget, dense)
    fastest = FeasibleSet(space, latency_map, budget_ms, scope).min_ms
    if fastest <= budget_ms:
        return budget_ms
    nearest = nearest_budget(fastest)
    raise BudgetUnreachable(
        f"No config is predicted to run within {budget_ms:.3f} ms on this device: the fastest takes "
        f"{fastest:.3f} ms, the dense model {dense:.3f} ms. The nearest possible budget is "
        f"{nearest:.3f} ms ({100 * nearest / dense:.1f}% of dense).",
        nearest_ms=nearest,
    )


def reachable_budgets(
    budget: float | str,
    latency_maps: Sequence[LatencyMap],
    spaces: Sequence[SearchSpace],
    scope: Scope,
) -> list[float | None]:
    """The latency budget in ms at each input of a search; None where no config meets it. A share is
    one of the first input's dense latency: all of them compete within one budget.

    Raises BudgetUnreachable, naming the nearest budget that one of the inputs can meet, where none
    can meet this one.
    """
    found: list[float | None] = []
    missed: list[BudgetUnreachable] = []
    for latency_map, space in zip(latency_maps, spaces, strict=True):
        try:
            found.append(reachable_budget(budget, latency_map, space, scope, latency_maps[0]))
        except BudgetUnreachable as error:
            found.append(None)
            missed.append(error)
    if len(missed) < len(found):
        return found
    nearest = min(range(len(missed)), key=lambda i: missed[i].nearest_ms)
    if len(missed) == 1:
        raise missed[0]
    size = size_text(latency_maps[nearest].facts["input"])
    raise BudgetUnreachable(
        f"None of the inputs can meet the budget; the nearest is {size}. {missed[nearest]}",
        nearest_ms=missed[nearest].nearest_ms,
    )


def nearest_budget(fastest_ms: float) -> float:
    """The nearest possible budget in ms, where the fastest config is predicted to take fastest_ms."""
    # A user who types the number back in must be served: room for the error of the prediction and
    # for the interval, whose upper bound is what must be within the budget.
    return math.ceil(fastest_ms * (1 + NEAREST_MARGIN) * 1000) / 1000


def map_verdicts(latency_map: LatencyMap) -> tuple[str, ...]:
    """What the latency map alone says about the search."""
    found = []
    if latency_map.fixed_ms - latency_map.backbone_fixed_ms > latency_map.dense_ms / 2:
        found.append("HEAD_DOMINATES")
    noise = max(WORTHWHILE, 2 * (latency_map.accuracy or {}).get("noise_floor", 0.0))
    if latency_map.range()[0] > (1 - noise) * latency_map.dense_ms:
        found.append("SPARSITY_DOES_NOT_PAY_HERE")
    return tuple(found)


def verdicts(
    latency_maps: Sequence[LatencyMap], budgets: Sequence[float | None]
) -> tuple[str, ...]:
    """`map_verdicts` of all inputs, and whether one of them was left out. budgets: as of
    `reachable_budgets`."""
    found = [one for latency_map in latency_maps for one in map_verdicts(latency_map)]
    if None in budgets:
        found.append(RESOLUTION_UNREACHABLE)
    return tuple(dict.fromkeys(found))


def finalists(history: Sequence[Evaluation], budget_ms: float) -> list[Genes]:
    """Who is measured: the best by metric, and the best of those that are safely fast enough.

    Evaluations that failed (a NaN metric) are passed over.
    """
    scored = (one for one in history if not math.isnan(one.metric))
    ranked = sorted(scored, key=lambda one: (-one.metric, one.latency_ms))
    chosen: list[Genes] = []
    for limit, count in ((1.0, BEST), *((share, 1) for share in SAFE_SHARES)):
        within = (one.genes for one in ranked if one.latency_ms <= budget_ms * limit)
        chosen += islice((genes for genes in within if genes not in chosen), count)
    return chosen


def best_uniform(
    space: SearchSpace, latency_map: LatencyMap, budget_ms: float, scope: Scope
) -> list[Genes]:
    """The densest uniform configs that may be within the budget."""
    rows = [tuple(int(level) for level in row) for row in space.uniform()]
    limit = budget_ms * PREDICTION_SLACK
    return [row for row in rows if latency_map.predict(row, scope) <= limit][:UNIFORM]
