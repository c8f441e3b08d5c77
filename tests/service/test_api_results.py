"""What a job has found, over HTTP."""

from __future__ import annotations

import csv
import hashlib
import io
import json

import httpx
import pytest

from service.db.artefacts import WEIGHTS_SUFFIX
from service.db.jobs import JobRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from tests.service.api_server import Api
from tests.service.test_api_jobs import submit
from tests.service.test_body import check_problem

CONFIG = {"schema_version": 1, "sparsity": [[0.1], [0.3]], "metric": {"value": 0.5}}
FRONT = [
    {"genes": [1, 2], "metric": {"value": 0.5, "interval": [0.4, 0.6]}, "receipt": "r1"},
    {"genes": [2, 2], "metric": {"value": 0.4}, "note": 'a "b", c'},
]
PNG = b"\x89PNG not really"


def get(api: Api, job_id: str, part: str, **headers: str) -> httpx.Response:
    return api.ann.get(f"/jobs/{job_id}/{part}", headers=headers)


@pytest.fixture
def done(api: Api) -> str:
    """A job of ann's that has succeeded."""
    job_id: str = submit(api)["id"]
    digest = api.artefacts.put(PNG)
    with session_scope(api.engine) as session:
        jobs = JobRepository(session)
        jobs.start(job_id)
        jobs.set_front(job_id, FRONT, {"pareto.png": digest, "windows.png": "0" * 64})
        ReceiptRepository(session).add(job_id, "r1", "latency", {"z": 1, "a": 2})
        jobs.succeed(job_id, CONFIG)
    return job_id


def test_the_config_is_a_download_with_a_strong_etag(api: Api, done: str) -> None:
    answer = get(api, done, "config")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="{done}.json"'
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == CONFIG
    assert list(answer.json()) == list(CONFIG), "keys keep their order"
    tag = answer.headers["etag"]
    assert tag.startswith('"')
    assert get(api, done, "config", **{"If-None-Match": tag}).status_code == 304
    ranges = ",".join(f"{n}-{n}" for n in range(1000))
    whole = get(api, done, "config", Range=f"bytes={ranges}")
    assert (whole.status_code, whole.content) == (200, answer.content)


def test_the_front_comes_in_three_forms(api: Api, done: str) -> None:
    assert get(api, done, "pareto").json() == {
        "object": "pareto_front",
        "job_id": done,
        "data": FRONT,
    }
    answer = get(api, done, "pareto?format=csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["metric.value"] for row in rows] == ["0.5", "0.4"]
    assert json.loads(rows[0]["metric.interval"]) == [0.4, 0.6]
    assert (rows[0]["note"], rows[1]["note"]) == ("", 'a "b", c')
    answer = get(api, done, "pareto?format=png")
    assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
    check_problem(get(api, done, "pareto?format=svg"), 422, "VALIDATION_FAILED")


def test_a_plot_whose_file_is_gone_is_not_found(api: Api, done: str) -> None:
    check_problem(get(api, done, "windows.png"), 404, "PLOT_NOT_FOUND")


def test_receipts_are_the_jobs_own(api: Api, done: str) -> None:
    assert list(get(api, done, "receipts/r1").json()) == ["z", "a"]
    for unknown in ("r2", "%00", "x" * 500, "..%2f"):
        assert get(api, done, f"receipts/{unknown}").status_code == 404
    other = submit(api)["id"]
    check_problem(get(api, other, "receipts/r1"), 404, "RECEIPT_NOT_FOUND")


WEIGHTS = bytes(range(256)) * 9000  # more than two pieces


def finished_with(api: Api, source: str, sha256: str) -> str:
    """A job that succeeded with those weights."""
    job_id: str = submit(api)["id"]
    with session_scope(api.engine) as session:
        jobs = JobRepository(session)
        jobs.start(job_id)
        jobs.succeed(job_id, CONFIG | {"weights": {"sha256": sha256, "source": source}})
    return job_id


@pytest.mark.parametrize("source", ["adapted", "finetuned"])
def test_weights_a_job_made_are_a_download_with_a_strong_etag(api: Api, source: str) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    file = api.data / "weights"
    file.write_bytes(WEIGHTS)
    api.artefacts.adopt(file, digest, WEIGHTS_SUFFIX)
    job_id = finished_with(api, source, digest)
    answer = get(api, job_id, "weights")
    assert (answer.status_code, answer.content) == (200, WEIGHTS)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(WEIGHTS))
    name = f'attachment; filename="{job_id}.safetensors"'
    assert answer.headers["content-disposition"] == name
    assert answer.headers["etag"] == f'"{digest}"'
    unchanged = get(api, job_id, "weights", **{"If-None-Match": f'"{digest}"'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    whole = get(api, job_id, "weights", Range="bytes=0-1")
    assert (whole.status_code, whole.content) == (200, WEIGHTS)
    check_problem(api.bob.get(f"/jobs/{job_id}/weights"), 404, "JOB_NOT_FOUND")
    assert api.ann.get(f"/jobs/{job_id}").json()["links"]["weights"] == f"/jobs/{job_id}/weights"


def test_a_job_that_trained_nothing_has_no_weights_of_its_own(api: Api) -> None:
    job_id = finished_with(api, "checkpoint", "c" * 64)
    problem = check_problem(get(api, job_id, "weights"), 409, "NO_WEIGHTS")
    assert "c" * 64 in problem["detail"]


def test_weights_whose_file_is_gone_are_not_found(api: Api) -> None:
    job_id = finished_with(api, "adapted", "a" * 64)
    check_problem(get(api, job_id, "weights"), 404, "WEIGHTS_NOT_FOUND")


PARTS = [
    "weights",
    "config",
    "pareto",
    "pareto?format=csv",
    "pareto?format=png",
    "windows.png",
    "latency.png",
]


@pytest.mark.parametrize("part", PARTS)
def test_before_the_end_nothing_is_ready(api: Api, part: str) -> None:
    job_id = submit(api)["id"]
    check_problem(get(api, job_id, part), 409, "RESULT_NOT_READY")
    with session_scope(api.engine) as session:
        JobRepository(session).fail(job_id, "CHECKPOINT_CORRUPT", "")
    problem = check_problem(get(api, job_id, part), 409, "RESULT_NOT_READY")
    assert "failed" in problem["detail"]


def test_a_search_without_feasible_config_still_shows_its_front(api: Api) -> None:
    job_id = submit(api)["id"]
    digest = api.artefacts.put(PNG)
    with session_scope(api.engine) as session:
        jobs = JobRepository(session)
        jobs.start(job_id)
        jobs.set_front(job_id, FRONT, {"pareto.png": digest})
        jobs.fail(job_id, "NO_FEASIBLE_CONFIG", "larger budget")
    check_problem(get(api, job_id, "config"), 409, "NO_FEASIBLE_CONFIG")
    check_problem(get(api, job_id, "windows.png"), 409, "NO_FEASIBLE_CONFIG")
    assert get(api, job_id, "pareto").json()["data"] == FRONT
    assert get(api, job_id, "pareto?format=png").content == PNG
