"""Who wins: the best metric whose measured upper bound is within the budget."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sparsevit.latency.meter import Measurement
from sparsevit.search.result import Scores
from sparsevit.search.verify import Finalist, Verification


def finalist(
    gene: int, metric: float, ms: float, upper: float, disturbed: bool = False
) -> Finalist:
    latency = Measurement(
        p50=ms,
        p90=ms,
        p99=ms,
        interval=(2 * ms - upper, upper),
        samples=30,
        converged=True,
        noise_floor=0.01,
        drift=0.05 if disturbed else 0.0,
        disturbed=disturbed,
        attempts=1,
        threads=1,
        reference_p50=20.0,
        reference_interval=(19.8, 20.2),
        ratio=ms / 20,
        ratio_interval=(ms / 20, ms / 20),
    )
    scores = Scores(metric, (metric - 0.01, metric + 0.01))
    return Finalist((gene,), scores, {"model": latency, "backbone": latency})


@pytest.fixture
def verification() -> Verification:
    session = SimpleNamespace(pairs=(1,))
    verification = Verification(session, None, 10.0, "model", {})
    verification.budget_ms = 10.0
    return verification


def test_the_upper_bound_decides_not_the_median(verification: Verification) -> None:
    over = finalist(1, 0.9, 9.9, 10.1)
    within = finalist(2, 0.8, 9.5, 9.7)
    assert verification.choose([over, within]) is within
    assert over.violation(10.0, "model") == pytest.approx(0.1)


def test_the_best_metric_wins_and_the_faster_of_equals(verification: Verification) -> None:
    slow, fast = finalist(1, 0.9, 9.5, 9.6), finalist(2, 0.9, 8.0, 8.1)
    assert verification.choose([finalist(3, 0.5, 2.0, 2.1), slow, fast]) is fast


def test_nobody_within_the_budget_is_an_error_with_the_nearest_budget(
    verification: Verification,
) -> None:
    over = finalist(1, 0.9, 10.4, 10.6)
    assert verification.choose([over]) is None
    error = verification.infeasible(over)
    assert error["code"] == "NO_FEASIBLE_CONFIG"
    assert "10.600 ms" in error["message"]


class Timed(Verification):
    """The decision alone: what would be scored and timed is given."""

    def __init__(self, timed: list[Finalist], budget: float | str) -> None:
        super().__init__(
            SimpleNamespace(pairs=(1,), splits=SimpleNamespace(search=None)),
            None,
            budget,
            "model",
            {},
        )
        self.given = timed

    def score(self, dataset, candidates):
        return {(0,): self.given[0].scores} | {c.genes: c.scores for c in self.given}

    def time(self, genes, progress):
        return {scope: [c.latency[scope] for c in self.given] for scope in ("model", "backbone")}

    def conclude(self, winner, baseline, dense, timed, artefacts):
        return {"document": winner.genes, "front": [{"winner": True}], "error": None}


@pytest.mark.parametrize(
    ("budget", "winner"), [("50%", (1,)), ("47%", (2,)), (10.0, (1,)), (9.4, (2,))]
)
def test_a_share_is_taken_of_the_dense_latency_measured_beside(budget, winner) -> None:
    """Dense took 20 ms beside the finalists, whatever the calibration said."""
    timed = [finalist(1, 0.9, 9.8, 9.9), finalist(2, 0.8, 9.2, 9.3)]
    job = Timed(timed, budget)
    assert job.run([(1,), (2,)], [], lambda name, content: "")["document"] == winner


def test_a_search_without_a_winner_reports_the_error_and_no_document() -> None:
    job = Timed([finalist(1, 0.9, 9.8, 9.9)], "10%")
    found = job.run([(1,)], [], lambda name, content: "")
    assert found["document"] is None
    assert found["front"] == [{"winner": False}]
    assert found["error"]["code"] == "NO_FEASIBLE_CONFIG"
