"""The slices of a training: which unit it begins with, and which one follows. Pure, as `coordinator`.

Each slice ends with a checkpoint in the artefact store, by whose SHA-256 the next one goes on; the
last one ends with weights instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.domain.records import Unit
from service.domain.status import UnitKind
from worker.decisions import WAIT, Decision, NewUnit
from worker.job_rows import JobRows


def first_slice(
    kind: UnitKind, settings: Mapping[str, Any], resolution: int = 0, **told: Any
) -> NewUnit:
    """The unit a training begins with. told: what every slice is to know, such as the config."""
    payload = {"settings": dict(settings), "step": 0, "checkpoint": None, **told}
    return NewUnit(kind, payload, shard=0, resolution=resolution)


def next_slice(rows: JobRows, kind: UnitKind) -> Decision | None:
    """What follows in a training that was begun; None once its last slice has ended."""
    last = _last(rows, kind)
    if last.result is None:
        return WAIT
    if last.result["done"]:
        return None
    made = last.result
    payload = {**last.payload, "step": made["step"], "checkpoint": made["checkpoint"]}
    training = {name: made[name] for name in ("step", "steps", "loss")}
    return Decision(
        units=(NewUnit(kind, payload, shard=last.shard + 1, resolution=last.resolution),),
        progress={**rows.job.progress, "training": training},
        estimated_finish_at=_estimated_finish(last, made),
    )


def trained_weights(rows: JobRows, kind: UnitKind) -> str:
    """The SHA-256 of the weights that a training ended with."""
    result = _last(rows, kind).result
    assert result is not None, "a training that has ended has a result"
    return str(result["weights"])


def _last(rows: JobRows, kind: UnitKind) -> Unit:
    return max((unit for unit in rows.all_units if unit.kind == kind), key=lambda unit: unit.shard)


def _estimated_finish(last: Unit, made: Mapping[str, Any]) -> datetime | None:
    """When the training is over if it goes on at the pace of its last slice."""
    trained = made["step"] - last.payload["step"]
    if last.finished_at is None or last.started_at is None or trained <= 0:
        return None
    pace = (last.finished_at - last.started_at) / trained
    return last.finished_at + pace * (made["steps"] - made["step"])
