"""The rows that `bench.service` reads through the API, and those that are written while it watches."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import JSON, Engine, bindparam, text

from service.db.jobs import EMPTY_PROGRESS, JobRepository
from service.db.session import session_scope
from service.db.workers import WorkerRepository
from service.domain.records import new_job_id
from service.domain.request import parse_search_request
from service.domain.status import Stage

DEVICE = "Benchium 1"
BODY: dict[str, Any] = {
    "checkpoint": "builtin:digits",
    "dataset": "builtin:digits",
    "latency_budget": "60%",
}
_SCOPE = {"dense_ms": 120.0, "min_ms": 60.0, "max_ms": 120.0, "nearest_ms": 62.0, "configs": 120285}
_CURVE = [[60.0 + ms, ms / 60] for ms in range(0, 61, 4)]
_INPUT = {"height": 448, "width": 448, "batch": 1, "precision": "fp32", "mode": "eager"}
LATENCY: dict[str, Any] = {
    "key": "c" * 64,
    "device": DEVICE,
    "input": {**_INPUT, "threads": 1},
    "score": "variance",
    "receipt": "receipt_1",
    "disturbed": False,
    "accuracy": {"mean_error": 0.01, "max_error": 0.03, "rank_correlation": 0.99},
    "padding": [],
    "aligned": [],
    "scopes": {name: {**_SCOPE, "feasible": _CURVE} for name in ("model", "backbone")},
}
INSPECTION: dict[str, Any] = {
    "task": "semantic_segmentation",
    "input": _INPUT,
    "preprocess": {"mean": [0.45] * 3, "std": [0.25] * 3, "resize": [448, 448]},
    "score": "variance",
    "splits": {"search": 128, "report": 128},
    "metric": {"name": "digit_miou", "kind": "mean_iou", "classes": [1]},
    "dense_metric": None,
    "adapt": None,
    "finetune": None,
}
_CONFIG: dict[str, Any] = {
    "sparsity": [[0.1], [0.3], [0.5, 0.5, 0.6], [0.7]],
    "kept_windows": [[58, 58], [12, 12], [2, 2, 2, 2, 2, 2], [1, 1]],
    "metric": {"name": "digit_miou", "value": 0.78, "interval": [0.76, 0.8], "split": "search"},
    "latency_ms": {"p50": 70.1, "p90": 71.2, "p99": 74.0, "interval": [69.8, 70.5]},
    "receipt": "receipt_1",
}
FRONT = [_CONFIG] * 25
# Milliseconds apart, as their ids say; nothing of a search is told apart by its id.
_COPIES = text(
    """
    INSERT INTO jobs (id, owner, status, version, request, device, inspection, latency_map_key,
                      latency, checkpoint_sha256, dataset_sha256, progress, metadata, created_at,
                      started_at, finished_at, result, front)
    SELECT 'job_' || lpad(to_hex(number), 32, '0'), owner, 'succeeded', 40, request, device,
           inspection, latency_map_key, latency, checkpoint_sha256, dataset_sha256, progress,
           metadata, created_at - number * interval '1 ms', started_at, clock_timestamp(),
           :result, :front
    FROM jobs, generate_series(1, :count) AS number
    WHERE id = :job_id
    RETURNING id
    """
).bindparams(bindparam("result", type_=JSON), bindparam("front", type_=JSON))


def fill(engine: Engine, owner: str, count: int) -> tuple[str, list[str]]:
    """A job that runs, and so many that have succeeded: their ids."""
    with session_scope(engine) as session:
        versions = {"torch": "2.13.0", "sparsevit": "0.1.0"}
        worker = ("bench", DEVICE, "uuid", "cpu", "bench", versions)
        WorkerRepository(session).register(*worker)
        running = _running(JobRepository(session), owner)
        found = {"result": _CONFIG, "front": FRONT}
        ended = session.scalars(_COPIES, {"job_id": running, "count": count, **found}).all()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))
    return running, list(ended)


def _running(jobs: JobRepository, owner: str) -> str:
    request = parse_search_request({**BODY, "device": DEVICE}).model_dump(mode="json")
    job_id = new_job_id()
    jobs.add(job_id, owner, request, None, None, DEVICE, {"ticket": "ML-71"})
    jobs.start(job_id)
    jobs.set_inspection(job_id, INSPECTION, DEVICE, "c" * 64, "d" * 64)
    jobs.set_latency(job_id, LATENCY)
    jobs.set_stage(job_id, Stage.SEARCH)
    return job_id


def write_events(engine: Engine, job_id: str, count: int, rate: float) -> int:
    """So many generations end, `rate` a second, each told as a coordinator tells it; then the job
    succeeds. Returns how many events that made."""
    start = time.perf_counter()
    for generation in range(count):
        time.sleep(max(0.0, start + generation / rate - time.perf_counter()))
        best = {"metric": 0.8, "latency_ms": 70.0}
        progress = EMPTY_PROGRESS | {"done": 100 * generation, "generation": generation}
        with session_scope(engine) as session:
            JobRepository(session).set_progress(job_id, {**progress, "best": best})
    with session_scope(engine) as session:
        JobRepository(session).succeed(job_id, {"schema_version": 1})
    return count + 1
