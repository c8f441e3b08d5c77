"""Several inputs of one search: what each settles, and the merging of what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from sparsevit.errors import BudgetUnreachable, ConfigError
from sparsevit.search import choices, resolutions
from sparsevit.search.inputs import check_inputs
from sparsevit.search.resolutions import merged
from sparsevit.search.space import SearchSpace
from tests.sparsevit.maps import linear_map

LARGE, SMALL = {"height": 448, "width": 448}, {"height": 224, "width": 224}


def point(genes: list[int], metric: float, ms: float, on_front: bool = True) -> dict[str, Any]:
    return {
        "genes": genes,
        "metric": metric,
        "latency_predicted": ms,
        "on_front": on_front,
        "winner": False,
    }


def found(name: str, front: list[dict[str, Any]], winner: int | None, ms: float) -> dict[str, Any]:
    """What was measured at one input; `ms` of the winner."""
    document = None
    if winner is not None:
        front[winner]["winner"] = True
        metric = {"search": {"value": front[winner]["metric"]}}
        document = {"name": name, "metric": metric, "latency_ms": {"p50": ms}}
    points = [[one["latency_predicted"], one["metric"]] for one in front]
    drawing = {
        "points": points,
        "front": points,
        "dense": [ms, 0.9],
        "budget_ms": 20.0,
        "winner": None,
        "uniform": [],
        "metric_name": "accuracy",
    }
    error = None if document else {"code": "NO_FEASIBLE_CONFIG", "message": f"{name} is too slow."}
    return {
        "document": document,
        "front": front,
        "receipts": {f"rcpt_{name}": {}},
        "artefacts": {"windows.png": name, "pareto.png": name},
        "error": error,
        "drawing": drawing,
    }


def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, bytes] = {}

    def keep(name: str, content: bytes) -> str:
        kept[name] = content
        return f"merged {name}"

    first = merged(None, one, LARGE, keep)
    assert not kept  # nothing to merge yet
    result = merged(first, other, SMALL, keep)
    assert kept["pareto.png"].startswith(b"\x89PNG")
    return result


def test_fronts_are_merged_and_the_better_winner_wins() -> None:
    large = found("large", [point([4], 0.7, 10.0), point([2], 0.9, 20.0)], 1, 20.0)
    small = found("small", [point([4], 0.6, 5.0), point([0], 0.8, 10.0)], 1, 10.0)
    result = both(large, small)
    assert result["document"] == large["document"]
    shown = [(p["input"]["height"], p["genes"], p["on_front"]) for p in result["front"]]
    assert shown == [
        (224, [4], True),
        (448, [4], False),  # as fast as the next, and worse
        (224, [0], True),
        (448, [2], True),
    ]
    assert [p["genes"] for p in result["front"] if p["winner"]] == [[2]]
    assert set(result["receipts"]) == {"rcpt_large", "rcpt_small"}
    assert result["artefacts"] == {"windows.png": "large", "pareto.png": "merged pareto.png"}
    assert result["error"] is None
    assert result["drawing"]["dense"] == [20.0, 0.9]  # the first one's
    assert [5.0, 0.6] in result["drawing"]["front"]
    assert [10.0, 0.7] not in result["drawing"]["front"]


def test_of_equal_winners_the_faster_one_wins() -> None:
    large = found("large", [point([2], 0.9, 20.0)], 0, 20.0)
    small = found("small", [point([0], 0.9, 10.0)], 0, 10.0)
    assert both(large, small)["document"]["name"] == "small"


@pytest.mark.parametrize("winner", ["large", "small"])
def test_one_winner_is_enough(winner: str) -> None:
    large, small = (
        found(name, [point([2], 0.9, 20.0)], 0 if name == winner else None, 20.0)
        for name in ("large", "small")
    )
    result = both(large, small)
    assert (result["document"]["name"], result["error"]) == (winner, None)
    assert sum(p["winner"] for p in result["front"]) == 1


def test_without_a_winner_every_input_says_why() -> None:
    large, small = (found(name, [point([2], 0.9, 20.0)], None, 20.0) for name in ("large", "small"))
    error = both(large, small)["error"]
    assert error["code"] == "NO_FEASIBLE_CONFIG"
    assert error["message"] == "At 448 x 448: large is too slow. At 224 x 224: small is too slow."
    small["error"] = {"code": "DEVICE_DISTURBED", "message": "busy."}
    # What cannot be believed is no proof.
    assert both(large, small)["error"]["code"] == "DEVICE_DISTURBED"


def test_one_input_has_no_resolutions() -> None:
    inspection = {"input": LARGE, "windows": [64]}
    assert resolutions.count(inspection) == 1
    assert resolutions.at_resolution(inspection, 0) is inspection
    several = {**inspection, "resolutions": [inspection, {"input": SMALL, "windows": [16]}]}
    assert resolutions.count(several) == 2
    assert resolutions.at_resolution(several, 1)["windows"] == [16]
    assert resolutions.resolution_of(several, dict(SMALL)) == 1


@pytest.mark.parametrize(
    "inputs",
    [[], [{"height": 32 * n} for n in range(1, 6)], [LARGE, LARGE], [LARGE, SMALL | {"batch": 2}]],
)
def test_inputs_differ_in_size_and_in_nothing_else(inputs: list[dict[str, Any]]) -> None:
    check_inputs([LARGE, SMALL])
    with pytest.raises(ConfigError):
        check_inputs(inputs)


def test_a_share_is_one_of_the_first_inputs_dense_latency() -> None:
    space = SearchSpace((1, 1, 2), (64, 16, 4), (0, 3, 6, 8))
    quick, slow = linear_map(space), linear_map(space, (80.0, 70.0, 60.0))
    maps, spaces = [quick, slow], [space, space]
    half = quick.dense_ms / 2
    assert choices.reachable_budgets("50%", maps, spaces, "model") == [half, None]
    assert choices.verdicts(maps, [half, None])[-1] == "RESOLUTION_UNREACHABLE"
    turned = choices.reachable_budgets("50%", maps[::-1], spaces, "model")
    assert turned == [slow.dense_ms / 2] * 2
    ratio = choices.dense_ratio(slow, quick, "model")
    assert ratio * quick.dense_ms == pytest.approx(slow.dense_ms)
    assert choices.dense_ratio(quick, quick, "model") == 1.0
    with pytest.raises(BudgetUnreachable, match="672 x 672") as raised:
        choices.reachable_budgets(0.01, maps[::-1], spaces, "model")
    with pytest.raises(BudgetUnreachable) as alone:
        choices.reachable_budget(0.01, quick, space, "model")
    assert raised.value.nearest_ms == alone.value.nearest_ms
