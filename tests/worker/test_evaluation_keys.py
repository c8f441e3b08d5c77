"""The keys of evaluations: all that the outcome depends on is in them, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from service.domain.records import Job, Unit
from service.domain.status import UnitKind
from tests.worker import rows
from tests.worker.rows import FACTS
from worker.requests import unit_request
from worker.reuse import unit_keys

UNIT = rows.unit(
    UnitKind.EVALUATE,
    shard=1,
    generation=2,
    payload={"candidates": [[0, 1, 2, 3]], "shard": 1, "shards": 3, "generation": 2},
)
FOLDER = {"path": "/data/model", "files": {"config.json": {"size": 3, "mtime_ns": 5}}}
JOB = rows.job(inspection=rows.INSPECTION, checkpoint_file=FOLDER)


def key(
    job: Job = JOB, unit: Unit = UNIT, device: dict[str, Any] | None = None, **versions: str
) -> bytes:
    session = unit_request(unit, job, Path("/artefacts"), 1.0, None)["session"]
    facts = {
        "device": rows.DEVICE | (device or {}),
        "versions": FACTS["versions"] | versions,
    }
    (only,) = unit_keys(unit, job, session, facts)
    return only


def inspected(**changes: Any) -> Job:
    return replace(JOB, inspection=rows.INSPECTION | changes)


def asked_for(**changes: Any) -> Job:
    return replace(JOB, request=rows.request(**changes))


def of_unit(**payload: Any) -> Unit:
    return replace(UNIT, payload=UNIT.payload | payload)


def digits(**changes: Any) -> dict[str, Any]:
    return {"path": "builtin:digits", **changes}


OTHER_KEYS = {
    "owner": key(replace(JOB, owner="you")),
    "weights": key(inspected(checkpoint_sha256="e" * 64)),
    "trained weights": key(replace(JOB, weights={"sha256": "f" * 64, "source": "adapted"})),
    "data": key(inspected(dataset_sha256="e" * 64)),
    "limit": key(asked_for(dataset=digits(limit=20))),
    "holdout": key(asked_for(dataset=digits(holdout=0.5))),
    "size": key(inspected(input=rows.INPUT | {"width": 224})),
    "precision": key(inspected(input=rows.INPUT | {"precision": "bf16"})),
    "preprocess": key(inspected(preprocess={"mean": [0, 0, 0]})),
    "score": key(inspected(score="l2")),
    "threads": key(inspected(evaluation_threads=1)),
    "metric": key(inspected(metric=rows.METRIC | {"classes": [0, 1, 2]})),
    "architecture": key(inspected(architecture={"pairs": list(rows.PAIRS), "heads": [3]})),
    "shard": key(unit=of_unit(shard=2)),
    "shards": key(unit=of_unit(shards=4)),
    "config": key(unit=of_unit(candidates=[[0, 1, 2, 4]])),
    "device": key(device={"model": "Other 1"}),
    "torch": key(torch="2.14.0"),
    "library": key(sparsevit="0.3.0"),
    "classes of the model folder": key(
        replace(JOB, checkpoint_file={**FOLDER, "files": {"config.json": {"size": 4}}})
    ),
}
SAME_KEYS = {
    "budget": key(asked_for(latency_budget_ms=5.0)),
    "search": key(asked_for(search={"seed": 3, "population": 9, "levels": [0, 1, 2, 3]})),
    "generation": key(unit=replace(of_unit(generation=5), generation=5, id=77)),
    "latency batch and threads": key(inspected(input=rows.INPUT | {"batch": 8, "threads": 4})),
    "another copy": key(replace(JOB, checkpoint_file={**FOLDER, "path": "/copy", "inode": 9})),
    "power limit and driver": key(device={"power_limit_w": 300, "driver": "555"}),
    "python": key(python="3.12.1"),
}


def test_all_that_states_depend_on_is_in_the_key() -> None:
    assert len({key(), *OTHER_KEYS.values()}) == 1 + len(OTHER_KEYS)
    assert all(len(one) == 32 for one in OTHER_KEYS.values())


def test_nothing_else_is_in_the_key() -> None:
    assert {name for name, one in SAME_KEYS.items() if one != key()} == set()


def test_configs_that_keep_the_same_windows_have_one_key() -> None:
    inspection = rows.INSPECTION | {"windows": [64, 16, 1]}
    job = replace(JOB, inspection=inspection)
    assert key(job, of_unit(candidates=[[0, 1, 0, 0]])) == key(
        job, of_unit(candidates=[[0, 1, 5, 8]])
    )
    assert key(job, of_unit(candidates=[[0, 2, 0, 0]])) != key(
        job, of_unit(candidates=[[0, 1, 0, 0]])
    )
