"""Arithmetic on the figures of a latency map: shares, budgets, staleness, what is the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import BudgetUnreachable
from service.domain.latency import (
    answer,
    budget_ms,
    check_reachable,
    feasible_share,
    fingerprint,
    is_stale,
)
from service.domain.records import Worker
from service.domain.request import parse_search_request
from service.domain.status import WorkerState
from tests.service.api_server import SMALL
from tests.service.figures import FACTS, MODEL, VERSIONS, summary

ROWS = [[40.0, 0.25], [70.0, 0.5], [100.0, 1.0]]


def request(**changes: Any) -> dict[str, Any]:
    body = {name: value for name, value in (SMALL | changes).items() if value is not None}
    return parse_search_request(body).model_dump(mode="json")


@pytest.mark.parametrize(
    ("ms", "share"),
    [
        (0.0, 0.0),
        (39.999, 0.0),
        (40.0, 0.25),
        (55.0, 0.375),
        (70.0, 0.5),
        (85.0, 0.75),
        (100.0, 1.0),
        (1e9, 1.0),
    ],
)
def test_shares_lie_on_the_rows_and_the_lines_between(ms: float, share: float) -> None:
    assert feasible_share(ROWS, ms) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("ms", "share"), [(9.9, 0.0), (10.0, 1.0), (10.1, 1.0)])
def test_a_space_of_one_latency_is_all_or_nothing(ms: float, share: float) -> None:
    assert feasible_share([[10.0, 1.0]], ms) == share
    assert feasible_share([[10.0, 0.5], [10.0, 1.0]], ms) == share


def tables() -> st.SearchStrategy[list[list[float]]]:
    """Ascending rows of ms and share, equal neighbours among them, the last share 1."""
    numbers = st.floats(0.01, 1e6, allow_nan=False)
    shares = st.floats(0, 1, allow_nan=False)
    rows = st.lists(st.tuples(numbers, shares), min_size=1, max_size=30)

    def table(pairs: list[tuple[float, float]]) -> list[list[float]]:
        times, parts = (sorted(column) for column in zip(*pairs, strict=True))
        return [list(row) for row in zip(times, [*parts[:-1], 1.0], strict=True)]

    return rows.map(table)


@given(tables(), st.lists(st.floats(0, 2e6, allow_nan=False), min_size=2))
def test_a_larger_budget_never_leaves_fewer(rows: list[list[float]], budgets: list[float]) -> None:
    found = [feasible_share(rows, ms) for ms in sorted(budgets)]
    assert all(0 <= share <= 1 for share in found)
    assert all(a <= b + 1e-9 for a, b in pairwise(found))


@given(tables())
def test_rows_are_hit_and_the_ends_are_nothing_and_all(rows: list[list[float]]) -> None:
    last = dict(rows)
    assert all(feasible_share(rows, ms) == share for ms, share in last.items())
    assert feasible_share(rows, rows[0][0] * 0.999) == 0
    assert feasible_share(rows, rows[-1][0]) == 1


def test_a_share_is_one_of_dense_and_milliseconds_are_taken_as_they_are() -> None:
    assert budget_ms(request(), 43.0) == 43.0 * 60 / 100
    assert budget_ms(request(latency_budget="0.5%"), 200.0) == 1.0
    assert budget_ms(request(latency_budget=None, latency_budget_ms=7.5), 43.0) == 7.5


def test_an_answer_is_for_the_scope_that_was_asked_for() -> None:
    model, backbone = (
        answer(summary(), request(latency_scope=scope)) for scope in ("model", "backbone")
    )
    assert (model["dense_ms"], model["budget_ms"]) == (120.0, 72.0)
    assert (backbone["dense_ms"], backbone["budget_ms"]) == (100.0, 60.0)
    assert model["feasible_share"] == pytest.approx(0.25 + 0.25 * 12 / 30)
    assert backbone["nearest_ms"] == 42.0


@pytest.mark.parametrize(("ms", "reachable"), [(59.9, False), (60.0, True), (500.0, True)])
def test_reachable_is_what_the_fastest_config_meets(ms: float, reachable: bool) -> None:
    asked = request(latency_budget=None, latency_budget_ms=ms)
    assert answer(summary(), asked)["reachable"] is reachable
    if reachable:
        check_reachable([summary()], asked)
        return
    with pytest.raises(BudgetUnreachable, match=r"62\.000 ms \(51\.7% of dense\)") as caught:
        check_reachable([summary()], asked)
    assert [error.pointer for error in caught.value.errors] == ["/latency_budget_ms"]
    assert "59.9" not in str(caught.value)
    check_reachable([summary(disturbed=True)], asked)  # rough figures refuse nothing


def test_a_share_is_one_of_the_first_input_and_one_within_reach_is_enough() -> None:
    large, small = summary(), summary()
    small["scopes"] = {
        name: {key: figures[key] / 4 for key in ("dense_ms", "min_ms", "max_ms", "nearest_ms")}
        | {"feasible": [[ms / 4, share] for ms, share in figures["feasible"]]}
        for name, figures in small["scopes"].items()
    }
    asked = request(latency_budget="20%")  # of 120 ms
    assert answer(small, asked, large)["budget_ms"] == 24.0
    assert answer(small, asked, large)["feasible_share"] == pytest.approx(0.5 + 0.5 * 1.5 / 7.5)
    check_reachable([large, small], asked)
    for order in ([large], [small, large]):  # 24 ms; 20% of the small one's 30 ms
        with pytest.raises(BudgetUnreachable):
            check_reachable(order, asked)
    with pytest.raises(BudgetUnreachable, match=r"15\.500 ms"):  # the nearest of both
        check_reachable([large, small], request(latency_budget="1%"))


def test_the_nearest_budget_is_reachable() -> None:
    for scope, figures in summary()["scopes"].items():
        asked = request(
            latency_scope=scope, latency_budget=None, latency_budget_ms=figures["nearest_ms"]
        )
        check_reachable([summary()], asked)


def worker(online: bool = True, minutes: int = 0, **versions: Any) -> Worker:
    seen = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    return Worker(
        "w", MODEL, "u", "cuda", "h", VERSIONS | versions, WorkerState.IDLE, None, seen, seen, online
    )  # fmt: skip


def test_a_map_is_stale_once_no_worker_has_its_versions() -> None:
    assert not is_stale(FACTS, [worker()])
    for change in ({"torch": "2.12"}, {"sparsevit": "0.2.0"}, {"driver": "580.2"}):
        assert is_stale(FACTS, [worker(**change)])
        assert not is_stale(FACTS, [worker(**change), worker()])
    assert not is_stale(FACTS, [worker(python="3.11")])
    assert is_stale(FACTS, [])


def test_workers_that_are_gone_count_only_while_nobody_else_is_there() -> None:
    old = worker(online=False, torch="2.10")
    assert is_stale(FACTS, [worker(online=False), worker(torch="2.12")])
    assert not is_stale(FACTS, [old, worker(online=False, minutes=1)])
    assert is_stale(FACTS, [worker(online=False), worker(online=False, minutes=1, torch="2.12")])


SAME = {
    "budget": {"latency_budget": "70%"},
    "milliseconds": {"latency_budget": None, "latency_budget_ms": 3.0},
    "scope": {"latency_scope": "backbone"},
    "metadata": {"metadata": {"a": "b"}},
    "device, settled otherwise": {"device": MODEL},
    "training": {"adapt": {}, "finetune": {"epochs": 4}},
    "seed": {"search": {"seed": 3, "population": 5, "parents": 2}},
}
OTHER = {
    "levels": {"search": {"levels": [0, 4, 8]}},
    "input": {"input": {"height": 224, "width": 224}},
    "mode": {"input": {"mode": "compiled"}},
    "score": {"score": "l2"},
    "preprocess": {"preprocess": {"channels": "bgr"}},
    "limit": {"dataset": {"path": "builtin:digits", "limit": 8}},
    "checkpoint": {"checkpoint": "/data/other"},
}


@pytest.mark.parametrize("name", SAME)
def test_what_latencies_do_not_depend_on_makes_no_other_question(name: str) -> None:
    assert fingerprint(request(**SAME[name]), None, None) == fingerprint(request(), None, None)


@pytest.mark.parametrize("name", OTHER)
def test_what_latencies_depend_on_does(name: str) -> None:
    assert fingerprint(request(**OTHER[name]), None, None) != fingerprint(request(), None, None)


def test_a_file_that_changed_is_another() -> None:
    record = {"path": "/data/m", "size": 3, "mtime_ns": 1, "inode": 7}
    found = {
        fingerprint(request(), record | change, None)
        for change in ({}, {"size": 4}, {"mtime_ns": 2}, {"inode": 8}, {"path": "/data/n"})
    }
    assert len(found) == 5
    assert fingerprint(request(), None, record) != fingerprint(request(), record, None)
