"""The Python client against a real API, and against services that misbehave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service import client as module
from service.client import Client, RemoteError, ServiceError
from service.db.artefacts import WEIGHTS_SUFFIX
from service.db.jobs import JobRepository
from service.db.session import session_scope
from tests.service.api_server import SMALL, Api

DETAILS = ("latency", "settled", "weights", "resolutions")
"""What a job shows and a list leaves out."""


@pytest.fixture
def ann(api: Api) -> Client:
    return Client(api.url, api.key)


def test_the_client_walks_a_jobs_whole_way(api: Api, ann: Client) -> None:
    with ann:
        job = ann.submit(SMALL)
        assert ann.job(job["id"]) == job
        (listed,) = ann.jobs(limit=1, status="queued")["data"]
        assert {**listed, **dict.fromkeys(DETAILS)} == job
        with pytest.raises(ServiceError) as caught:
            ann.config(job["id"])
        assert (caught.value.code, caught.value.message[:3]) == ("RESULT_NOT_READY", "the")
        with session_scope(api.engine) as session:
            jobs = JobRepository(session)
            jobs.start(job["id"])
            digest = api.artefacts.put(b"png")
            jobs.set_front(
                job["id"],
                [{"a": 1}],
                dict.fromkeys(("pareto.png", "windows.png", "latency.png"), digest),
            )
            jobs.succeed(job["id"], {"z": 1})
        assert json.loads(ann.config(job["id"])) == {"z": 1}
        assert json.loads(ann.pareto(job["id"]))["data"] == [{"a": 1}]
        assert ann.pareto(job["id"], "csv").split() == [b"a", b"1"]
        assert ann.pareto(job["id"], "png") == ann.windows_png(job["id"]) == b"png"
        assert ann.latency_png(job["id"]) == b"png"
        assert ann.workers() == ann.devices() == []
        assert [seen["status"] for seen in ann.watch(job["id"])] == ["succeeded"]
        assert ann.cancel(ann.submit(SMALL)["id"])["status"] == "cancelled"
        assert ann.dry_run(SMALL)["inspection"] == "pending"


def test_weights_come_into_a_file_whole_or_not_at_all(
    api: Api, ann: Client, tmp_path: Path
) -> None:
    content, file = b"weights" * 300_000, tmp_path / "weights.safetensors"
    digest = hashlib.sha256(content).hexdigest()
    written = tmp_path / "written"
    written.write_bytes(content)
    api.artefacts.adopt(written, digest, WEIGHTS_SUFFIX)
    with ann:
        job_id = ann.submit(SMALL)["id"]
        with pytest.raises(RemoteError) as caught:
            ann.weights(job_id, file)
        assert caught.value.code == "RESULT_NOT_READY"
        assert list(tmp_path.iterdir()) == []
        with session_scope(api.engine) as session:
            jobs = JobRepository(session)
            jobs.start(job_id)
            jobs.succeed(job_id, {"weights": {"sha256": digest, "source": "adapted"}})
        ann.weights(job_id, file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == content


def test_refusals_name_their_fields(ann: Client) -> None:
    with pytest.raises(RemoteError) as caught:
        ann.submit({**SMALL, "score": "x"})
    assert (caught.value.code, caught.value.status) == ("VALIDATION_FAILED", 422)
    assert [error.pointer for error in caught.value.errors] == ["/score"]


def test_odd_ids_stay_one_part_of_the_path(ann: Client) -> None:
    for job_id in ("../workers", "a/b", "a?b", "\0"):
        with pytest.raises(RemoteError) as caught:
            ann.job(job_id)
        assert caught.value.code in ("JOB_NOT_FOUND", "NOT_FOUND")


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client("http://service", "key", transport=httpx.MockTransport(handler))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds the client would have waited."""
    seconds: list[float] = []
    monkeypatch.setattr(module.time, "sleep", seconds.append)
    return seconds


def test_reads_wait_for_a_service_that_comes_back(waits: list[float]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if len(waits) == 0:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(503 if len(waits) < 3 else 200, json={"data": []})

    assert answering(handler).workers() == []
    assert waits == [0.25, 0.5, 1.0]


def test_reads_give_up_and_say_what_to_do(waits: list[float]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(RemoteError, match="sparsevit up") as caught:
        answering(handler).workers()
    assert caught.value.code == "UNREACHABLE"
    assert len(waits) == module.ATTEMPTS - 1


def test_a_submission_is_sent_again_under_the_same_key(waits: list[float]) -> None:
    keys = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers.get("idempotency-key"))
        if request.url.path.endswith("/cancel") or len(keys) < 3:
            return httpx.Response(503)
        return httpx.Response(202, json={"id": "job_1"})

    client = answering(handler)
    assert client.submit(SMALL)["id"] == "job_1"
    assert len(keys) == 3
    assert len(set(keys)) == 1
    client.submit(SMALL)
    assert keys[3] != keys[0], "another search has a key of its own"
    with pytest.raises(RemoteError) as caught:
        client.cancel("job_1")
    assert (caught.value.code, len(keys)) == ("HTTP_503", 5)


@pytest.mark.parametrize("content", [b"<html>", b"[]"])
def test_another_service_is_recognised(content: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        answering(lambda _request: httpx.Response(200, content=content)).job("x")
    assert caught.value.code == "NOT_THIS_SERVICE"
