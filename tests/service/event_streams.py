"""Jobs whose events are told, and their streams read by the rules of HTML."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from sqlalchemy import Engine

from service.db.events import EventRepository
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.domain.events import JobEvent
from service.domain.status import Stage
from tests.service.api_server import SMALL, Api


def progress(generation: int | None, done: int, training: Any = None) -> dict[str, Any]:
    counts = {"done": done, "failed": 0, "total": 9, "best": None}
    return {**counts, "generation": generation, "training": training}


@contextmanager
def jobs(engine: Engine) -> Iterator[JobRepository]:
    """Jobs in a transaction of their own."""
    with session_scope(engine) as session:
        yield JobRepository(session)


def events(engine: Engine, job_id: str, after: int = 0) -> list[JobEvent]:
    with session_scope(engine) as session:
        return EventRepository(session).of_job(job_id, after)


def run_to_its_end(engine: Engine, job_id: str) -> None:
    """A job's way in short, each step of it a transaction."""
    for change in (
        lambda its: its.start(job_id),
        lambda its: its.set_latency(job_id, {"not": "told"}),
        lambda its: its.set_stage(job_id, Stage.SEARCH),
        lambda its: its.set_progress(job_id, progress(0, 3)),
        lambda its: its.add_verdicts(job_id, ["HEAD_DOMINATES"]),
        lambda its: its.fail(job_id, "CODE", "do this"),
    ):
        with jobs(engine) as repository:
            assert change(repository)


ITS_KINDS = ["status", "status", "stage", "progress", "verdicts", "status"]


def submit(api: Api) -> str:
    job_id: str = api.ann.post("/search", json=SMALL).json()["id"]
    return job_id


def blocks(answer: httpx.Response) -> Iterator[dict[str, str]]:
    """The blocks of a stream by the rules of HTML; a comment has the name ''."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(":")
        if line:
            fields[name] = value.strip()
        elif fields:
            yield fields
            fields = {}


def all_blocks(http: httpx.Client, job_id: str, **headers: str) -> list[dict[str, str]]:
    with http.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=20) as answer:
        assert answer.status_code == 200, answer.read()
        return list(blocks(answer))
