"""Jobs over HTTP: submitting, keys and owners, ETags."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from redis import Redis

from service.api.objects import JobObject
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.db.workers import WorkerRepository
from service.domain.status import UnitKind
from tests.service.api_server import SMALL, Api
from tests.service.conftest import unit_states
from tests.service.test_body import check_problem


def submit(api: Api, **changes: Any) -> dict[str, Any]:
    answer = api.ann.post("/search", json={**SMALL, **changes})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def register(api: Api, device: str, kind: Any = "cpu") -> None:
    with session_scope(api.engine) as session:
        WorkerRepository(session).register(device, device, "uuid", kind, "host", {"torch": "2"})


def test_a_small_request_becomes_a_job_with_its_defaults(api: Api, redis_url: str) -> None:
    answer = api.ann.post("/search", json={**SMALL, "metadata": {"note": "hello"}})
    assert answer.status_code == 202
    job = answer.json()
    JobObject.model_validate_json(answer.content)
    assert (job["status"], job["stage"], job["object"]) == ("queued", None, "search_job")
    assert job["progress"] == {
        "done": 0,
        "failed": 0,
        "total": None,
        "generation": None,
        "best": None,
        "stop": None,
        "training": None,
        "postponed": None,
    }
    assert job["request"]["search"]["seed"] == 0
    assert job["request"]["dataset"]["holdout"] == 0.2
    assert job["metadata"] == {"note": "hello"}
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert api.ann.get(answer.headers["location"]).json() == job
    with session_scope(api.engine) as session:
        (unit,) = UnitRepository(session).for_job(job["id"])
        assert (unit.kind, unit.state, unit.device) == (UnitKind.INSPECT, "pending", None)
    with Redis.from_url(redis_url) as redis:
        assert redis.llen("units") >= 1


def test_files_are_recorded_when_they_are_posted(api: Api) -> None:
    checkpoint = api.data / "model.safetensors"
    checkpoint.write_bytes(b"123")
    job = submit(api, checkpoint=str(checkpoint), dataset={"path": str(api.data)})
    with session_scope(api.engine) as session:
        stored = JobRepository(session).get(job["id"])
    assert stored is not None
    assert stored.checkpoint_file is not None
    assert stored.checkpoint_file["size"] == 3
    assert stored.checkpoint_file["inode"] == checkpoint.stat().st_ino
    assert stored.dataset_file is not None
    assert stored.dataset_file["path"] == str(api.data.resolve())


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/etc/shadow", "PATH_NOT_ALLOWED"),
        ("http://169.254.169.254", "URL_NOT_ALLOWED"),
        ("{data}/missing", "ARTIFACT_NOT_FOUND"),
    ],
)
@pytest.mark.parametrize("field", ["checkpoint", "dataset"])
def test_paths_are_refused_by_field(api: Api, field: str, path: str, code: str) -> None:
    body = {**SMALL, field: path.replace("{data}", str(api.data))}
    problem = check_problem(api.ann.post("/search", json=body), 422, code)
    assert problem["errors"][0]["pointer"].startswith(f"/{field}")
    assert path not in str(problem)


class TestDevice:
    def test_none_known_is_any(self, api: Api) -> None:
        assert submit(api)["request"]["device"] is None

    def test_the_only_one_is_filled_in(self, api: Api) -> None:
        register(api, "Testium 3000")
        job = submit(api)
        assert (job["request"]["device"], job["device"]) == ("Testium 3000", "Testium 3000")

    def test_several_must_be_named(self, api: Api) -> None:
        register(api, "Testium 3000")
        register(api, "Fastium", "cuda")
        problem = check_problem(api.ann.post("/search", json=SMALL), 422, "VALIDATION_FAILED")
        assert problem["errors"][0]["pointer"] == "/device"
        assert submit(api, device="Fastium")["device"] == "Fastium"
        assert submit(api, device="cpu")["device"] == "Testium 3000"
        assert submit(api, device="cuda")["device"] == "Fastium"

    def test_a_kind_of_two_models_is_not_enough(self, api: Api) -> None:
        register(api, "Testium 3000")
        register(api, "Testium 4000")
        answer = api.ann.post("/search", json={**SMALL, "device": "cpu"})
        check_problem(answer, 422, "VALIDATION_FAILED")

    def test_never_seen_is_refused_and_offline_queues(self, api: Api) -> None:
        register(api, "Testium 3000")
        with session_scope(api.engine) as session:
            WorkerRepository(session).stopped("Testium 3000")
        assert submit(api, device="Testium 3000")["status"] == "queued"
        answer = api.ann.post("/search", json={**SMALL, "device": "cuda:999"})
        check_problem(answer, 422, "VALIDATION_FAILED")


PATHS = ["/jobs", "/workers", "/devices", "/jobs/job_0", "/jobs/x/config", "/jobs/x/receipts/r"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer  x", "Bearer ' OR 1=1--", "Basic YQ==", "Bearer " + "x" * 999],
)
def test_without_a_known_key_nothing_is_shown(api: Api, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = api.nobody.get(path, headers=headers)
    check_problem(answer, 401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_strangers_bodies_are_not_read(api: Api) -> None:
    check_problem(api.nobody.post("/search", content=b"{"), 401, "UNAUTHENTICATED")


def test_another_owners_job_is_not_there(api: Api) -> None:
    job_id = submit(api)["id"]
    for method, path in [
        ("GET", ""),
        ("POST", "/cancel"),
        ("GET", "/config"),
        ("GET", "/pareto"),
        ("GET", "/windows.png"),
        ("GET", "/latency.png"),
        ("GET", "/candidates"),
        ("GET", "/receipts/r1"),
    ]:
        answer = api.bob.request(method, f"/jobs/{job_id}{path}")
        check_problem(answer, 404, "JOB_NOT_FOUND")
    assert api.bob.get("/jobs").json()["data"] == []
    check_problem(api.bob.get(f"/jobs?after={job_id}"), 422, "VALIDATION_FAILED")
    assert api.ann.get(f"/jobs/{job_id}").json()["status"] == "queued"


@pytest.mark.parametrize(
    "job_id", ["%00", "job_", "job_" + "0" * 32, "job_" + "Z" * 32, "%F0%9F%98%80", "x" * 3000]
)
def test_an_id_that_is_none_is_not_there(api: Api, job_id: str) -> None:
    check_problem(api.ann.get(f"/jobs/{job_id}"), 404, "JOB_NOT_FOUND")


def test_a_job_that_has_not_changed_is_not_sent_again(api: Api) -> None:
    job_id = submit(api)["id"]
    first = api.ann.get(f"/jobs/{job_id}")
    tag = first.headers["etag"]
    for condition in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        answer = api.ann.get(f"/jobs/{job_id}", headers={"If-None-Match": condition})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
        assert "retry-after" in answer.headers
    with session_scope(api.engine) as session:
        JobRepository(session).start(job_id)
    changed = api.ann.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    with session_scope(api.engine) as session:
        JobRepository(session).fail(job_id, "CODE", "do this", "/checkpoint")
    ended = api.ann.get(f"/jobs/{job_id}")
    assert "retry-after" not in ended.headers
    assert ended.json()["error"] == {
        "code": "CODE",
        "message": "do this",
        "pointer": "/checkpoint",
    }
    JobObject.model_validate_json(ended.content)


def test_workers_are_woken_after_the_commit(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, int]] = []

    def look(_celery: Celery, _device: str | None) -> bool:
        with session_scope(api.engine) as session:
            (job,) = JobRepository(session).page("ann", 1)
            seen.append(unit_states(session, job.id))
        return True

    monkeypatch.setattr("service.jobs.submission.wake_units", look)
    submit(api)
    assert seen == [{"pending": 1}]
