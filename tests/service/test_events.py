"""Events of jobs: written with each change, polled for all at once, followed by the client."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from service import client as client_module
from service.api import events as route
from service.api.streams import EventHub
from service.client import Client, RemoteError
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.domain.status import Stage
from tests.service.api_server import Api
from tests.service.conftest import add_job
from tests.service.event_streams import ITS_KINDS, events, jobs, progress, run_to_its_end, submit


@pytest.fixture
def engine(api: Api) -> Engine:
    """The database of the API, with its keys in it."""
    return api.engine


def test_every_change_that_is_told_leaves_an_event(engine: Engine, job_id: str) -> None:
    run_to_its_end(engine, job_id)
    found = events(engine, job_id)
    assert [event.kind for event in found] == ITS_KINDS
    assert [event.last for event in found] == [False] * 5 + [True]
    assert [event.data["version"] for event in found] == [1, 2, 4, 5, 6, 7]
    assert [event.id for event in found] == sorted(event.id for event in found)
    first, started, *_, ended = found
    assert first.data == {"version": 1, "status": "queued"}
    assert started.data == {"version": 2, "status": "running", "stage": "inspect"}
    error = {"code": "CODE", "message": "do this", "pointer": None}
    ending = {"status": "failed", "stage": None, "estimated_finish_at": None, "error": error}
    assert ended.data == {"version": 7, **ending}
    assert events(engine, job_id, after=found[3].id) == found[4:]


def test_a_change_that_is_not_made_leaves_none(engine: Engine, job_id: str) -> None:
    with Session(engine) as session:
        JobRepository(session).start(job_id)
        session.rollback()
    with jobs(engine) as its:
        assert not its.succeed(job_id, None)
    assert [event.kind for event in events(engine, job_id)] == ["status"]


def test_a_generation_and_a_training_leave_one_event_each(engine: Engine, job_id: str) -> None:
    with jobs(engine) as its:
        its.start(job_id)
        its.set_stage(job_id, Stage.ADAPT)
        for step in range(5):
            its.set_progress(job_id, progress(None, 0, {"step": step, "steps": 5, "loss": 1.0}))
        its.set_stage(job_id, Stage.SEARCH)
        for generation, done in ((0, 0), (0, 3), (1, 3), (1, 5), (1, 6)):
            its.set_progress(job_id, progress(generation, done))
    found = [event for event in events(engine, job_id) if "progress" in event.data]
    told = [(one.kind, one.data["progress"]["generation"]) for one in found]
    assert told == [("training", None), ("progress", 0), ("progress", 1)]
    assert [one.data["progress"]["done"] for one in found] == [0, 3, 6]
    assert found[0].data["progress"]["training"]["step"] == 4


def test_events_go_with_their_job(engine: Engine, job_id: str) -> None:
    other = add_job(engine)
    with session_scope(engine) as session:
        session.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": job_id})
    assert events(engine, job_id) == []
    assert len(events(engine, other)) == 1


def test_one_poller_asks_for_all_and_rests_when_nobody_listens(engine: Engine) -> None:
    job_id = add_job(engine)
    (queued,) = events(engine, job_id)

    async def listen() -> list[list[int]]:
        hub = EventHub(engine, 2)
        assert hub.listeners == 0
        async with hub.listen("ann", job_id, queued.id) as early:
            run_to_its_end(engine, job_id)
            first = await asyncio.wait_for(early.get(), 10)
            # Who comes later and has seen less gets all of it nonetheless.
            async with hub.listen("ann", job_id, 0) as late:
                assert hub.listeners == 2
                some = [(await asyncio.wait_for(late.get(), 10)).id for _ in range(6)]
        assert hub.listeners == 0
        poller = hub._poller
        assert poller is not None
        await asyncio.wait_for(poller, 10)
        return [[first.id], some]

    (first,), some = asyncio.run(listen())
    ids = [event.id for event in events(engine, job_id)]
    assert first == ids[1]
    assert some == ids


def test_the_client_follows_events_to_the_end(api: Api) -> None:
    job_id = submit(api)
    late = threading.Timer(0.3, run_to_its_end, (api.engine, job_id))
    late.start()
    with Client(api.url, api.key) as client:
        told = list(client.events(job_id))
        assert [one["event"] for one in told] == ITS_KINDS
        assert told[-1]["error"]["code"] == "CODE"
        assert list(client.events(job_id, after=told[2]["id"])) == told[3:]
        assert list(client.events(job_id, after=told[-1]["id"])) == []
        (job,) = client.watch(job_id)
        assert job["status"] == "failed"
        with pytest.raises(RemoteError) as caught:
            list(client.events("job_" + "0" * 32))
    late.join()
    assert caught.value.code == "JOB_NOT_FOUND"


def test_the_client_resumes_streams_that_end_early(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "LIFETIME_SECONDS", 0.2)
    monkeypatch.setattr(client_module, "FIRST_WAIT_SECONDS", 0.05)
    job_id = submit(api)
    late = threading.Timer(1.0, run_to_its_end, (api.engine, job_id))
    late.start()
    with Client(api.url, api.key) as client:
        assert [one["event"] for one in client.events(job_id)] == ITS_KINDS
    late.join()


def test_watching_polls_a_service_without_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda _seconds: None)
    states = iter(["queued", "running", "running", "succeeded"])

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            problem = {"code": "NOT_FOUND", "detail": "no such route", "errors": []}
            return httpx.Response(404, json=problem)
        status = next(states)
        return httpx.Response(200, json={"status": status}, headers={"ETag": f'"{status}"'})

    client = Client("http://service", "key", transport=httpx.MockTransport(handler))
    seen = [job["status"] for job in client.watch("job")]
    assert seen == ["queued", "running", "running", "succeeded"]
