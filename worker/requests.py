"""What the device process is asked: a unit, and the arguments of the session that it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.db.artefacts import WEIGHTS_SUFFIX, ArtefactStore
from service.domain.records import Job, Json, Unit
from service.domain.status import TRAINING_KINDS, UnitKind
from sparsevit.search.choices import SETTLED_BY_INSPECTION
from sparsevit.search.resolutions import at_resolution
from worker.training_files import attempt_folder

Files = Mapping[str, Mapping[str, Any] | None]
"""{"checkpoint": record, "dataset": record} of POST; a null record is built in."""


def unit_request(
    unit: Unit, job: Job, root: Path, slice_seconds: float, latency_map: Json | None
) -> dict[str, Any]:
    """What the device process is sent for a unit. latency_map: the job's, where it is measured."""
    payload = {**unit.payload, "artifact_root": str(root)}
    if unit.kind == UnitKind.INSPECT:
        payload |= {name: job.request[name] for name in ("adapt", "finetune")}
        if isinstance(job.request["input"], list):
            payload["more_inputs"] = job.request["input"][1:]
    if unit.kind == UnitKind.MEASURE:
        payload["latency_map"] = latency_map
    if unit.kind in TRAINING_KINDS:
        payload |= {"folder": str(attempt_folder(root, unit)), "seconds": slice_seconds}
    files = {"checkpoint": job.checkpoint_file, "dataset": job.dataset_file}
    inspection = job.inspection and at_resolution(job.inspection, unit.resolution)
    arguments = session_arguments(job.request, files, inspection)
    if job.weights is not None:
        arguments = on_own_weights(arguments, job.weights, ArtefactStore(root))
    return {
        "kind": unit.kind,
        "session": arguments,
        "payload": payload,
        "about": unit_fields(unit),
    }


def unit_fields(unit: Unit) -> dict[str, Any]:
    """What lines of the log that are about a unit carry; see service.domain.logs."""
    return {
        "job": unit.job_id,
        "unit": unit.id,
        "attempt": unit.attempt,
        "request_id": unit.request_id,
    }


def session_arguments(
    request: Mapping[str, Any], files: Files, inspection: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Arguments of `sparsevit.search.steps.Session`, less the device, plus "files" and "inspected".

    The paths are those that POST resolved and found under the roots, never the request's own: a
    link in these may lead elsewhere by now. What the request leaves open is settled by the
    inspection once and for all: from then on every worker, whatever its own defaults, computes
    the same thing. "inspected" holds the hashes of what was inspected; null before.
    """
    settled = inspection if inspection is not None else _first_input(request)
    dataset = request["dataset"]
    return {
        "checkpoint": _resolved(request["checkpoint"], files["checkpoint"]),
        "dataset": {**dataset, "path": _resolved(dataset["path"], files["dataset"])},
        **{name: settled.get(name) for name in SETTLED_BY_INSPECTION},
        "files": dict(files),
        "inspected": None if inspection is None else _hashes(inspection),
    }


def _first_input(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request with the input that the inspection begins with."""
    several = isinstance(request.get("input"), list)
    return {**request, "input": request["input"][0]} if several else request


def on_own_weights(
    arguments: Mapping[str, Any], weights: Mapping[str, str], store: ArtefactStore
) -> dict[str, Any]:
    """The same session on weights that the job made, {"sha256", "source"}, instead of the
    checkpoint of its request, which is of no more concern."""
    return {
        **arguments,
        "checkpoint": str(store.path(weights["sha256"], WEIGHTS_SUFFIX)),
        "weights_source": weights["source"],
        "files": {**arguments["files"], "checkpoint": None},
        "inspected": {**arguments["inspected"], "checkpoint": weights["sha256"]},
    }


def _resolved(named: str, record: Mapping[str, Any] | None) -> str:
    """The recorded path; what has no record is a built-in name."""
    return named if record is None else record["path"]


def _hashes(inspection: Mapping[str, Any]) -> dict[str, str | None]:
    names = ("checkpoint", "dataset", "training")  # the last one where the job trains
    return {name: inspection.get(f"{name}_sha256") for name in names}
