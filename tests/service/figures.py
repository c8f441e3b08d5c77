"""Figures of a made-up latency map, as a worker stores them, and rows to put them into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.db.workers import WorkerRepository
from tests.service.api_server import Api

MODEL = "Testium 3000"
KEY = "c" * 64
VERSIONS = {"torch": "2.11", "sparsevit": "0.1.0", "driver": "570.1", "python": "3.12"}
FACTS: dict[str, Any] = {
    "device": {"kind": "cuda", "model": MODEL, "driver": "570.1", "power_limit_w": 700.0},
    "versions": {"torch": "2.11", "sparsevit": "0.1.0"},
}


def scope(head_ms: float) -> dict[str, Any]:
    """Dense 100 ms and the head; half of the configs within 70 ms and the head."""
    rows = [[40.0, 0.25], [70.0, 0.5], [100.0, 1.0]]
    return {
        "dense_ms": 100.0 + head_ms,
        "min_ms": 40.0 + head_ms,
        "max_ms": 100.0 + head_ms,
        "nearest_ms": 42.0 + head_ms,
        "configs": 4,
        "feasible": [[ms + head_ms, share] for ms, share in rows],
    }


def summary(key: str = KEY, disturbed: bool = False) -> dict[str, Any]:
    """What the library answers of a map."""
    return {
        "key": key,
        "device": MODEL,
        "input": {
            "height": 450,
            "width": 448,
            "batch": 1,
            "precision": "fp32",
            "mode": "eager",
            "threads": 1,
        },
        "score": "variance",
        "receipt": "receipt_1",
        "disturbed": disturbed,
        "accuracy": {
            "mean_error": 0.01,
            "max_error": 0.03,
            "rank_correlation": 0.99,
            "noise_floor": 0.008,
            "configs": 12,
        },
        "padding": [{"stage": 0, "padded": 13328, "real": 12656, "ratio": 13328 / 12656}],
        "aligned": [{"height": 448, "width": 448, "predicted_ms": 95.0}],
        "scopes": {"model": scope(20.0), "backbone": scope(0.0)},
    }


INSPECTION: dict[str, Any] = {
    "task": "semantic_segmentation",
    "input": {"height": 448, "width": 448, "batch": 1, "precision": "fp32", "mode": "eager"},
    "preprocess": {"mean": [0.45] * 3, "std": [0.25] * 3, "resize": [448, 448]},
    "score": "variance",
    "splits": {"search": 128, "report": 128},
    "metric": {"name": "digit_miou", "kind": "mean_iou", "classes": [1]},
    "dense_metric": None,
    "adapt": {"epochs": 12, "learning_rate": 1e-5},
    "finetune": None,
}


@dataclass
class Lab:
    """Plays the workers of an API: one device, whose jobs it takes to where a test wants them."""

    api: Api
    versions: dict[str, Any] = field(default_factory=lambda: dict(VERSIONS))

    def register(self, name: str = "one", **versions: Any) -> None:
        """A worker that is online."""
        with session_scope(self.api.engine) as session:
            WorkerRepository(session).register(
                name, MODEL, "uuid", "cuda", "host", self.versions | versions
            )

    def measure(self, job_id: str, disturbed: bool = False, **facts: Any) -> None:
        """Calibrates a job: its map stands, its figures are known."""
        key = f"{KEY}-receipt_{job_id}" if disturbed else KEY
        figures = summary(key, disturbed)
        with session_scope(self.api.engine) as session:
            jobs = JobRepository(session)
            jobs.start(job_id)
            jobs.set_inspection(job_id, INSPECTION, MODEL, "c" * 64, "d" * 64)
            LatencyMapRepository(session).add(key, MODEL, {"facts": FACTS | facts}, figures)
            jobs.set_latency_map(job_id, key)
            jobs.set_latency(job_id, figures)

    def succeed(self, job_id: str) -> None:
        """Ends a dry run as a worker does."""
        with session_scope(self.api.engine) as session:
            JobRepository(session).succeed(job_id, None)
            UnitRepository(session).cancel_pending(job_id)

    def fail(self, job_id: str) -> None:
        """Ends a job with an error."""
        with session_scope(self.api.engine) as session:
            JobRepository(session).fail(job_id, "CHECKPOINT_CORRUPT", "download it again")
            UnitRepository(session).cancel_pending(job_id)

    def age(self, minutes: float) -> None:
        """Moves what has ended and what was measured into the past."""
        with session_scope(self.api.engine) as session:
            for table, column in (("jobs", "finished_at"), ("latency_maps", "created_at")):
                session.execute(
                    text(f"UPDATE {table} SET {column} = {column} - :m * interval '1 min'"),
                    {"m": minutes},
                )
