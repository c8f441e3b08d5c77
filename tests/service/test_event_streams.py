"""Streams of events over HTTP: from the beginning, resumed, silent, many at once, through an outage."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from service.api import events as route
from service.db.migrate import upgrade
from service.embedded.accounts import temporary_home
from service.embedded.postgres import EmbeddedPostgres
from tests.service.api_server import Api, running_api
from tests.service.event_streams import (
    ITS_KINDS,
    all_blocks,
    blocks,
    events,
    run_to_its_end,
    submit,
)
from tests.service.test_body import check_problem

CLIENTS = 50


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
