"""What a real search leaves behind is what the API's description says of it, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from service.api.receipt_objects import ReceiptObject
from service.api.result_objects import ConfigObject, FrontPoint
from service.domain.partial import SCHEMA_VERSION
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.run import SearchResult, run_search

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return run_search(
        "builtin:digits",
        {"path": "builtin:digits", "limit": 8},
        latency_budget_ms=60_000.0,  # any latency is within it
        settings=EvolutionSettings(population=3, parents=2, generations=1, seed=1),
        input={"threads": 1, "height": 224, "width": 224},
        measure_seconds=3,
    )


def undescribed(found: BaseModel, place: str = "") -> Iterator[str]:
    """Fields that a document has and its description has not."""
    yield from (f"{place}/{name}" for name in found.model_extra or {})
    for name in type(found).model_fields:
        value = getattr(found, name)
        if isinstance(value, BaseModel):
            yield from undescribed(value, f"{place}/{name}")


def check(model: type[BaseModel], document: dict[str, Any]) -> None:
    found = model.model_validate(document, strict=True)
    assert list(undescribed(found)) == []
    # Those with a default are of partial configs, fine-tuned ones, or several inputs.
    assert set(document) >= {n for n, f in model.model_fields.items() if f.is_required()}


def test_the_best_config(result: SearchResult) -> None:
    check(ConfigObject, result.document)
    assert result.document["schema_version"] == SCHEMA_VERSION
    missing = set(ConfigObject.model_fields) - set(result.document)
    assert missing == {"partial"}, "all else is said of a config that was measured"


def test_the_front(result: SearchResult) -> None:
    assert result.front
    for point in result.front:
        check(FrontPoint, point)


def test_the_receipts(result: SearchResult) -> None:
    assert result.receipts
    for receipt in result.receipts.values():
        check(ReceiptObject, receipt)
