"""Events of jobs: written with each change, streamed over HTTP, followed by the client."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service import client as client_module
from service.api import events as route
from service.api.streams import EventHub
from service.client import Client, RemoteError
from service.db.events import EventRepository
from service.db.jobs import JobRepository
from service.db.migrate import upgrade
from service.db.session import session_scope
from service.domain.events import JobEvent
from service.domain.status import Stage
from service.embedded.accounts import temporary_home
from service.embedded.postgres import EmbeddedPostgres
from tests.service.api_server import SMALL, Api, running_api
from tests.service.conftest import add_job
from tests.service.test_body import check_problem

CLIENTS = 50


@pytest.fixture
def engine(api: Api) -> Engine:
    """The database of the API, with its keys in it."""
    return api.engine


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


def test_a_stream_tells_all_from_the_beginning_and_closes_at_the_end(api: Api) -> None:
    job_id = submit(api)
    late = threading.Timer(0.5, run_to_its_end, (api.engine, job_id))
    late.start()
    with api.ann.stream("GET", f"/jobs/{job_id}/events", timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        first, *told = blocks(answer)
    late.join()
    assert int(first["retry"]) > 0
    written = events(api.engine, job_id)
    assert [(int(one["id"]), one["event"]) for one in told] == [
        (event.id, event.kind) for event in written
    ]
    for one, event in zip(told, written, strict=True):
        data = json.loads(one["data"])
        assert data.pop("created_at") == event.created_at.isoformat(timespec="microseconds")
        assert data == event.data
    assert all_blocks(api.ann, job_id) == [first, *told], "and again, now that it has ended"


def test_a_stream_resumes_after_the_last_event_that_was_seen(api: Api) -> None:
    job_id = submit(api)
    run_to_its_end(api.engine, job_id)
    ids = [str(event.id) for event in events(api.engine, job_id)]
    _, *told = all_blocks(api.ann, job_id, **{"Last-Event-ID": ids[2]})
    assert [one["id"] for one in told] == ids[3:]
    _, *told = all_blocks(api.ann, job_id, **{"Last-Event-ID": "0"})
    assert [one["id"] for one in told] == ids
    seen = {"Last-Event-ID": ids[-1]}
    answer = api.ann.get(f"/jobs/{job_id}/events", headers=seen)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("bad", ["", "x", "-1", "1.5", "1e3", "9" * 18, "9" * 19, "1; DROP TABLE"])
def test_a_bad_last_event_id_is_refused(api: Api, bad: str) -> None:
    path, headers = f"/jobs/{submit(api)}/events", {"Last-Event-ID": bad}
    found = check_problem(api.ann.get(path, headers=headers), 422, "VALIDATION_FAILED")
    assert [error["pointer"] for error in found["errors"]] == ["/Last-Event-ID"]


def test_a_stream_is_its_owners_alone(api: Api) -> None:
    path = f"/jobs/{submit(api)}/events"
    check_problem(api.bob.get(path), 404, "JOB_NOT_FOUND")
    check_problem(api.nobody.get(path), 401, "UNAUTHENTICATED")
    check_problem(api.ann.get("/jobs/%00/events"), 404, "JOB_NOT_FOUND")
    check_problem(api.ann.get(path, params={"after": "1"}), 422, "VALIDATION_FAILED")


def test_a_silent_stream_beats_without_an_id_and_does_not_live_for_ever(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(route, "LIFETIME_SECONDS", 0.5)
    _, queued, *beats = all_blocks(api.ann, submit(api))
    assert queued["event"] == "status"
    assert 2 <= len(beats) <= 6
    assert all(set(beat) == {""} for beat in beats)


def test_fifty_clients_hear_of_a_change_within_a_second(api: Api) -> None:
    followed = [submit(api) for _ in range(5)]
    ready = threading.Barrier(CLIENTS + 1, timeout=30)

    def delays(job_id: str) -> list[float]:
        heard = []
        with api.ann.stream("GET", f"/jobs/{job_id}/events", timeout=30) as answer:
            for block in blocks(answer):
                if block.get("event") == "status" and "queued" in block["data"]:
                    ready.wait()
                elif "data" in block:
                    heard.append(time.time())
        return heard

    with ThreadPoolExecutor(CLIENTS) as pool:
        heard = [pool.submit(delays, followed[i % len(followed)]) for i in range(CLIENTS)]
        ready.wait()
        started = time.perf_counter()
        assert api.nobody.get("/healthz").status_code == 200
        assert api.ann.get(f"/jobs/{followed[0]}").status_code == 200
        assert time.perf_counter() - started < 2, "open streams hold no request up"
        for job_id in followed:
            run_to_its_end(api.engine, job_id)
        written = {
            job_id: [event.created_at.timestamp() for event in events(api.engine, job_id)[1:]]
            for job_id in followed
        }
        found = [
            moment - wrote
            for i, future in enumerate(heard)
            for moment, wrote in zip(
                future.result(30), written[followed[i % len(followed)]], strict=True
            )
        ]
    found.sort()
    assert len(found) == CLIENTS * 5
    assert found[int(len(found) * 0.99)] <= 1.0, f"p99 of the delay, in seconds: {found[-5:]}"


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


def test_a_stream_outlives_the_database(tmp_path: Path, redis_url: str) -> None:
    folder = tmp_path / "api"
    folder.mkdir()
    with (
        temporary_home(tmp_path / "servers") as home,
        EmbeddedPostgres(home / "postgres", durable=False) as server,
    ):
        upgrade(server.url())
        with running_api(server.url(), redis_url, folder) as api:
            job_id = submit(api)
            with api.ann.stream("GET", f"/jobs/{job_id}/events", timeout=30) as answer:
                stream = blocks(answer)
                assert [next(stream).get("event") for _ in range(2)] == [None, "status"]
                server.process.stop()
                time.sleep(1)
                headers = dict(api.ann.headers)
                away = httpx.get(f"{api.url}/jobs/{job_id}/events", headers=headers)
                check_problem(away, 503, "DATABASE_UNAVAILABLE")
                server.process.start()
                wait_for(api.engine)
                run_to_its_end(api.engine, job_id)
                assert [one["event"] for one in stream if "id" in one] == ITS_KINDS[1:]


def wait_for(engine: Engine) -> None:
    """Until the database answers."""
    until = time.monotonic() + 30
    while True:
        try:
            with engine.connect():
                return
        except OperationalError:
            assert time.monotonic() < until
            time.sleep(0.2)


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
