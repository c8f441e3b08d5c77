"""A database as it is after a year: made-up rows in every big table, by a few statements."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from service.db.session import session_scope

BIG_TABLES = ("jobs", "units", "evaluations", "job_events", "receipts", "idempotency_keys")

# One job in 200 runs, one in 2000 has failed; ann has nine of ten, every fifth is a dry run.
_JOBS = """
    INSERT INTO jobs (id, owner, status, stage, dry_run, request, fingerprint, progress, metadata,
        device, created_at, started_at, finished_at)
    SELECT 'job_' || md5(n::text), CASE WHEN n % 10 = 9 THEN 'bob' ELSE 'ann' END, state.status,
        CASE WHEN state.status = 'running' THEN 'verify' END, n % 5 = 4, :request,
        md5((n % 100)::text), :progress, '{}', 'Testium', now() - n * interval '1 minute',
        now() - n * interval '1 minute',
        CASE WHEN state.status <> 'running' THEN now() - n * interval '30 seconds' END
    FROM generate_series(0, :jobs - 1) AS n, LATERAL (
        SELECT CASE WHEN n % 200 = 0 THEN 'running' WHEN n % 2000 = 1 THEN 'failed'
            ELSE 'succeeded' END AS status
    ) AS state
"""
_OTHERS = (
    """
    INSERT INTO units (job_id, kind, generation, shard, payload, state, started_at, result)
    SELECT id, CASE WHEN n = 0 THEN 'measure' ELSE 'evaluate' END, CASE WHEN n = 0 THEN -1 ELSE 0 END,
        n - 1, '{}', CASE WHEN status = 'running' AND n = 0 THEN 'pending' ELSE 'done' END,
        CASE WHEN status <> 'running' OR n > 0 THEN created_at END, '{}'
    FROM jobs, generate_series(0, :each - 1) AS n
    """,
    """
    INSERT INTO evaluations (job_id, config_key, generation, position, genes, state, metric,
        latency_ms)
    SELECT id, n::text, 0, n, '[0, 1]', 'done', n * 0.001, n
    FROM jobs, generate_series(0, CASE WHEN id = :large THEN :many ELSE :each END - 1) AS n
    ORDER BY n.n, jobs.id
    """,
    """
    INSERT INTO job_events (job_id, kind, data)
    SELECT id, 'status', jsonb_build_object('version', n, 'status',
        CASE WHEN n = :each THEN status ELSE 'running' END)
    FROM generate_series(1, :each) AS n, jobs ORDER BY n
    """,
    "INSERT INTO receipts (job_id, id, kind, document) SELECT id, 'rcpt_1', 'verify', '{}' FROM jobs",
    """
    INSERT INTO idempotency_keys (owner, key, body_sha256, job_id, answer)
    SELECT owner, 'key of ' || id, md5(id), id, '{}' FROM jobs
    """,
)
_PROGRESS = {"done": 0, "failed": 0, "total": None, "generation": None, "best": None}
_PROGRESS |= {"stop": None, "training": None}


@dataclass(frozen=True)
class Archive:
    """What was made. large: the job with most evaluations, which runs, as the one of `live`."""

    large: str
    live: str
    ended: str


def fill(engine: Engine, jobs: int, each: int, many: int, request: Any = None) -> Archive:
    """Adds jobs with so many units, evaluations and events each; one has `many` evaluations."""
    with session_scope(engine) as session:
        ids = {
            name: session.scalar(text("SELECT 'job_' || md5(:n)"), {"n": str(n)}) or ""
            for name, n in (("large", 0), ("live", 200), ("ended", 2))
        }
        values = {"jobs": jobs, "each": each, "many": many, "large": ids["large"]}
        documents = {"request": json.dumps(request or {}), "progress": json.dumps(_PROGRESS)}
        session.execute(text(_JOBS), {"jobs": jobs, **documents})
        for statement in _OTHERS:
            used = {name: value for name, value in values.items() if f":{name}" in statement}
            session.execute(text(statement), used)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return Archive(**ids)
