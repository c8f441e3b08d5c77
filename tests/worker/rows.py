"""Rows as plain data, and what a device would answer to a unit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.db.artefacts import ArtefactStore
from service.domain.records import Job, Unit
from service.domain.request import parse_search_request
from service.domain.status import JobStatus, Stage, UnitKind, UnitState
from sparsevit.search.latency_map import LatencyMap, map_facts, map_key
from worker import training_files
from worker.decisions import NewUnit

TRAINING_STEPS = 5
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAIRS = (1, 1, 2)
WINDOWS = (64, 16, 10)  # every level keeps another number of them

METRIC = {"name": "digit_miou", "kind": "mean_iou", "classes": [0, 1]}

INPUT = {
    "height": 448,
    "width": 448,
    "batch": 1,
    "precision": "fp32",
    "mode": "eager",
    "threads": 1,
}
DEVICE = {"kind": "cpu", "model": "Testium 3000", "driver": None, "power_limit_w": None}
FACTS = {"device": DEVICE, "versions": {"torch": "2.13.0", "sparsevit": "0.2.0"}}
"""What a worker knows of its device and its programs."""
DIED = {"code": "DEVICE_PROCESS_DIED", "message": "it was killed by signal 11"}
MAP_FACTS = map_facts(
    architecture={"pairs": list(PAIRS)}, input=INPUT, score="variance", device=DEVICE, versions={}
)
MAP_KEY = map_key(MAP_FACTS)

INSPECTION: dict[str, Any] = {
    "architecture": {"pairs": list(PAIRS)},
    "windows": list(WINDOWS),
    "task": "semantic_segmentation",
    "evaluation_threads": 2,
    "checkpoint_sha256": "c" * 64,
    "dataset_sha256": "d" * 64,
    "training_sha256": None,
    "input": INPUT,
    "preprocess": None,
    "score": "variance",
    "splits": {"search": 40, "report": 10},
    "metric": METRIC,
    "images": 40,
    "shards": 3,
    "adapted": True,
    "dense_metric": None,
    "adapt": None,
    "finetune": None,
    "device": DEVICE["model"],
    "latency_map_key": MAP_KEY,
}


def latency_map(head_ms: float = 1.0) -> LatencyMap:
    """4 pairs, 10 ms each when dense, a tenth less for every level; 2 ms fixed in the backbone."""
    return LatencyMap(
        key=MAP_KEY,
        levels=tuple(range(9)),
        fixed_ms=2.0 + head_ms,
        backbone_fixed_ms=2.0,
        pair_ms=tuple(tuple(10.0 - level for level in range(9)) for _ in range(sum(PAIRS))),
        dense_ms=42.0 + head_ms,
        receipt={"id": "rcpt_1"},
        facts=MAP_FACTS,
    )


def request(**changes: Any) -> dict[str, Any]:
    """A filled-in request of a small search; a budget of 60% unless given."""
    search = {"population": 6, "parents": 3, "generations": 3, "seed": 7}
    body: dict[str, Any] = {
        "checkpoint": "builtin:digits",
        "dataset": "builtin:digits",
        "search": search | changes.pop("search", {}),
    }
    if "latency_budget_ms" not in changes:
        body["latency_budget"] = "60%"
    return parse_search_request(body | changes).model_dump(mode="json")


def job(**changes: Any) -> Job:
    """A job row as it stands after POST, with changes."""
    fresh = Job(
        id="job_1",
        owner="me",
        status=JobStatus.RUNNING,
        stage=Stage.INSPECT,
        version=1,
        dry_run=False,
        request_id=None,
        request=request(),
        fingerprint=None,
        checkpoint_file=None,
        dataset_file=None,
        device=None,
        inspection=None,
        latency_map_key=None,
        latency=None,
        resolutions=None,
        checkpoint_sha256=None,
        dataset_sha256=None,
        weights=None,
        progress={},
        verdicts=[],
        error=None,
        result=None,
        front=None,
        artefacts={},
        metadata={},
        created_at=NOW,
        started_at=None,
        cancel_requested_at=None,
        finished_at=None,
        estimated_finish_at=None,
    )
    return replace(fresh, **changes)


def unit(kind: UnitKind, state: UnitState = UnitState.PENDING, **changes: Any) -> Unit:
    """A unit row, with changes."""
    fresh = Unit(
        id=1,
        job_id="job_1",
        kind=kind,
        resolution=0,
        generation=-1,
        shard=-1,
        part=-1,
        payload={},
        state=state,
        attempt=0,
        failures=0,
        postponed=0,
        not_before=None,
        lease_until=None,
        worker_id=None,
        device=None,
        device_uuid=None,
        result=None,
        error=None,
        created_at=NOW,
        started_at=None,
        finished_at=None,
    )
    return replace(fresh, **changes)


def score_state(genes: list[int], shard: int) -> list[list[int]]:
    """Hits, labels and predictions of two classes: the more is dropped, and the earlier, the worse."""
    wrong = sum(level * weight for level, weight in zip(genes, (4, 3, 2, 1), strict=True))
    there = [1000 + shard, 1000 + wrong]
    return [[1000 + shard - wrong, 1000], there, there]


def simulated_result(unit: NewUnit | Unit) -> dict[str, Any]:
    """What a device would answer."""
    return simulate(unit.kind, unit.payload)


def simulate(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a device would answer to a unit of that kind."""
    match UnitKind(kind):
        case UnitKind.INSPECT:
            return INSPECTION | {name: payload.get(name) for name in ("adapt", "finetune")}
        case UnitKind.CALIBRATE:
            return {"map": latency_map().to_dict(), "receipt": {"id": "rcpt_1"}}
        case UnitKind.EVALUATE:
            shard, candidates = payload["shard"], payload["candidates"]
            return {"states": [[score_state(genes, shard)] for genes in candidates], "seconds": 0.1}
        case UnitKind.PROBE if payload["images"] is None:
            return {"names": [f"image-{payload['shard']}-{i}.png" for i in range(14)]}
        case UnitKind.PROBE:
            return {}
        case UnitKind.ADAPT | UnitKind.FINETUNE:
            return simulate_slice(payload)
        case UnitKind.MEASURE if "found" in payload:
            found = payload["found"]
            document = found["document"] | {"weights": "finetuned"}
            receipts = {"rcpt_3": {"id": "rcpt_3"}}
            return {**found, "document": document, "receipts": receipts, "error": None}
        case UnitKind.MEASURE:
            return {
                "document": {"sparsity": list(payload["finalists"][0])},
                "front": [{"genes": list(payload["finalists"][0]), "winner": True}],
                "receipts": {"rcpt_2": {"id": "rcpt_2"}},
                "artefacts": {"pareto.png": "a" * 64},
                "error": None,
            }


def disturbed(measured: Mapping[str, Any], message: str) -> dict[str, Any]:
    """The answer of a measurement whose device was never quiet."""
    return {
        **measured,
        "document": None,
        "front": [{**point, "winner": False} for point in measured["front"]],
        "receipts": {
            name: {**proof, "latency_ms": {"disturbed": True}}
            for name, proof in measured["receipts"].items()
        },
        "error": {"code": "DEVICE_DISTURBED", "message": message},
    }


def simulate_slice(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Two steps of a training of five. Its files are written where the payload says where."""
    step = min(payload["step"] + 2, TRAINING_STEPS)
    done = step == TRAINING_STEPS
    content = f"{payload.get('genes', 'adapt')} {step}".encode()
    if "folder" in payload:
        store = ArtefactStore(Path(payload["artifact_root"]))
        files = training_files.begin(Path(payload["folder"]), store, payload["checkpoint"])
        files[done].write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return {
        "step": step,
        "steps": TRAINING_STEPS,
        "loss": 1.0 / step,
        "done": done,
        "checkpoint": None if done else digest,
        "weights": digest if done else None,
    }
