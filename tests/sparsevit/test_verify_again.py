"""After fine-tuning: the winner must be within its budget again, and quiet."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sparsevit.errors import DeviceDisturbed
from sparsevit.search.verify import MEASUREMENTS, Finalist, Verification
from sparsevit.search.verify_again import verify_again
from tests.sparsevit.test_verify import finalist

FOUND = {
    "document": None,
    "front": [{"genes": [2], "winner": False}, {"genes": [1], "winner": True}],
    "artefacts": {"pareto.png": "a"},
}


class Measured(Verification):
    """What each measurement of the winner finds is given; the budget is 10 ms."""

    def __init__(self, *finalists: Finalist) -> None:
        super().__init__(SimpleNamespace(pairs=(1,)), None, 10.0, "model", {})
        self.given = list(finalists)

    def enter(self, genes: Sequence[Any], report: Any) -> list[Finalist]:
        assert list(genes) == [(1,)]
        return [self.given.pop(0)]

    def receipt(self, finalist: Finalist) -> dict[str, Any]:
        return {"id": "receipt_2"}


def test_a_winner_that_stays_over_its_budget_fails_with_the_front_it_had() -> None:
    job = Measured(*[finalist(1, 0.9, 9.9, 10.1)] * MEASUREMENTS)
    found = verify_again(job, FOUND, lambda name, content: "")
    assert found["error"]["code"] == "NO_FEASIBLE_CONFIG"
    assert (found["document"], found["front"]) == (None, FOUND["front"])
    assert found["artefacts"] == FOUND["artefacts"]
    assert set(found["receipts"]) == {"receipt_2"}
    assert job.given == []


def test_a_device_that_is_never_quiet_is_an_error_that_passes() -> None:
    job = Measured(*[finalist(1, 0.9, 9.0, 9.1, disturbed=True)] * MEASUREMENTS)
    with pytest.raises(DeviceDisturbed) as caught:
        verify_again(job, FOUND, lambda name, content: "")
    assert caught.value.passing
