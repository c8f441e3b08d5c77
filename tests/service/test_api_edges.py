"""Routes that are not there, request ids, health, the description, and servers that are away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from service.api.objects import JobObject
from service.db.migrate import upgrade
from service.db.session import session_scope
from service.domain.logs import TextLines
from service.embedded.accounts import temporary_home
from service.embedded.postgres import EmbeddedPostgres
from tests.service.api_server import SMALL, Api, running_api
from tests.service.test_body import check_problem

NOWHERE = {
    "database_url": "postgresql://127.0.0.1:1/none",
    "redis_url": "redis://127.0.0.1:1/0",
}


def test_unknown_routes_and_methods_are_problems(api: Api) -> None:
    for path in ("/nope", "/search/", "/jobs/", "/jobs/x/y"):
        check_problem(api.ann.get(path), 404, "NOT_FOUND")
    answer = api.ann.put("/jobs")
    check_problem(answer, 405, "METHOD_NOT_ALLOWED")
    assert "GET" in answer.headers["allow"]
    check_problem(api.ann.get("/search"), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a.B_9-", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False)],
)
def test_request_ids_are_echoed_where_harmless(api: Api, given: str, kept: bool) -> None:
    for path in ("/healthz", "/jobs", "/nope"):
        answer = api.ann.get(path, headers={"X-Request-ID": given})
        found = answer.headers["x-request-id"]
        assert (found == given) is kept
        assert found


def test_the_description_names_bodies_answers_and_problems(api: Api) -> None:
    document: dict[str, Any] = api.nobody.get("/openapi.json").json()
    post = document["paths"]["/search"]["post"]
    assert post["requestBody"]["content"]["application/json"]["example"]["latency_budget"] == "60%"
    fields = document["components"]["schemas"]["SearchRequest"]["properties"]
    assert all("description" in field for field in fields.values())
    assert post["responses"]["422"]["content"].keys() == {"application/problem+json"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert set(document["components"]["schemas"]["JobObject"]["properties"]) == set(
        JobObject.model_fields
    )
    assert post["security"]
    for path in ("", "/config", "/weights", "/pareto", "/windows.png", "/latency.png"):
        assert "304" in document["paths"][f"/jobs/{{job_id}}{path}"]["get"]["responses"]


def test_the_examples_in_the_description_are_accepted(api: Api) -> None:
    document: dict[str, Any] = api.nobody.get("/openapi.json").json()
    body = document["paths"]["/search"]["post"]["requestBody"]
    example = body["content"]["application/json"]["example"]
    problem = check_problem(api.ann.post("/search", json=example), 422, "PATH_NOT_ALLOWED")
    assert len(problem["errors"]) == 1, "nothing but the place of the file is wrong with it"


def test_a_healthy_service_is_ready(api: Api) -> None:
    assert api.nobody.get("/healthz").json() == {"status": "ok"}
    answer = api.nobody.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "checks": {"database": "ok", "disk": "ok", "redis": "ok"}},
    )


def test_without_redis_the_service_is_degraded_and_takes_jobs(
    database_url: str, tmp_path: Path
) -> None:
    with running_api(database_url, NOWHERE["redis_url"], tmp_path) as api:
        answer = api.nobody.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        started = time.monotonic()
        assert api.ann.post("/search", json=SMALL).status_code == 202
        assert time.monotonic() - started < 1


def test_on_another_versions_tables_the_service_is_not_ready(api: Api) -> None:
    with session_scope(api.engine) as session:
        known = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = 'other'"))
    answer = api.nobody.get("/readyz")
    with session_scope(api.engine) as session:
        session.execute(text("UPDATE alembic_version SET version_num = :known"), {"known": known})
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == "migrations are missing"


def test_with_the_database_away_every_route_says_503(tmp_path: Path, redis_url: str) -> None:
    with (
        temporary_home(tmp_path / "servers") as home,
        EmbeddedPostgres(home / "postgres", durable=False) as server,
    ):
        upgrade(server.url())
        folder = tmp_path / "api"
        folder.mkdir()
        with running_api(server.url(), redis_url, folder) as api:
            job_id = api.ann.post("/search", json=SMALL).json()["id"]
            server.stop()
            _check_everything_is_away(api, job_id)


def test_the_log_names_routes_and_not_what_callers_send(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(TextLines())
    with caplog.at_level("INFO", "service.requests"):
        api.ann.get(f"/jobs/canary-7319?{'x' * 10}=1", headers={"X-Request-ID": "id-1"})
        # The line is written once the answer is out: the caller may be first.
        until = time.monotonic() + 10
        while "id-1" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
    assert "GET /jobs/{job_id} 422" in caplog.text
    assert "[request_id=id-1]" in caplog.text
    assert "canary" not in caplog.text
    assert api.key not in caplog.text


def _check_everything_is_away(api: Api, job_id: str) -> None:
    answers = [
        api.ann.post("/search", json=SMALL),
        api.ann.post(f"/jobs/{job_id}/cancel"),
        *(api.ann.get(path) for path in ("/jobs", f"/jobs/{job_id}", "/workers", "/devices")),
    ]
    for answer in answers:
        check_problem(answer, 503, "DATABASE_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) > 0
    assert api.nobody.get("/healthz").status_code == 200
    assert api.nobody.get("/readyz").status_code == 503
