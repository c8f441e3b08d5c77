"""Submissions that are sent again under their Idempotency-Key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from service.db.jobs import JobRepository
from service.db.session import session_scope
from tests.service.api_server import SMALL, Api
from tests.service.test_body import check_problem


def submit(http: httpx.Client, key: str, **changes: Any) -> httpx.Response:
    return http.post("/search", json={**SMALL, **changes}, headers={"Idempotency-Key": key})


def jobs(http: httpx.Client) -> list[str]:
    return [job["id"] for job in http.get("/jobs").json()["data"]]


def test_the_first_answer_comes_again_whatever_became_of_the_job(api: Api) -> None:
    first = submit(api.ann, "key-1")
    assert first.status_code == 202
    assert "idempotent-replayed" not in first.headers
    with session_scope(api.engine) as session:
        JobRepository(session).fail(first.json()["id"], "CODE", "do this")
    second = submit(api.ann, "key-1")
    assert (second.status_code, second.content) == (202, first.content)
    assert second.headers["idempotent-replayed"] == "true"
    for name in ("location", "etag", "retry-after"):
        assert second.headers[name] == first.headers[name]
    assert jobs(api.ann) == [first.json()["id"]]
    assert submit(api.ann, "key-2").json()["id"] != first.json()["id"]


def test_the_same_body_is_the_same_however_it_is_written(api: Api) -> None:
    headers = {"Idempotency-Key": "key-1", "Content-Type": "application/json"}
    written = (
        '{"checkpoint": "builtin:digits", "dataset": "builtin:digits", "latency_budget": "60%"}',
        '{"latency_budget":"60%","dataset":"builtin:digits",\n"checkpoint":"builtin:digits"}',
    )
    answers = [api.ann.post("/search", content=body, headers=headers) for body in written]
    assert answers[0].json() == answers[1].json()


def test_another_body_under_the_key_is_refused(api: Api) -> None:
    submit(api.ann, "key-1")
    other = submit(api.ann, "key-1", latency_budget="61%")
    check_problem(other, 422, "IDEMPOTENCY_KEY_REUSED")
    assert len(jobs(api.ann)) == 1


def test_a_key_is_its_owners_alone(api: Api) -> None:
    anns, bobs = submit(api.ann, "key-1"), submit(api.bob, "key-1", latency_budget="61%")
    assert (anns.status_code, bobs.status_code) == (202, 202)
    assert jobs(api.bob) == [bobs.json()["id"]]


def test_a_refusal_uses_no_key_up(api: Api) -> None:
    check_problem(submit(api.ann, "key-1", checkpoint="/etc/shadow"), 422, "PATH_NOT_ALLOWED")
    assert submit(api.ann, "key-1").status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 300, "a b", "a\tb", "\u00e9"])
def test_a_key_that_cannot_be_one_is_refused(api: Api, key: str) -> None:
    answer = api.ann.post("/search", json=SMALL, headers={b"Idempotency-Key": key.encode()})
    check_problem(answer, 400, "IDEMPOTENCY_KEY_INVALID")
    assert jobs(api.ann) == []


def test_many_at_once_start_one_search(api: Api) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: submit(api.ann, "key-1"), range(16)))
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.json()["id"] for answer in accepted}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in accepted) == 1
    for answer in answers:
        if answer.status_code != 202:
            check_problem(answer, 409, "IDEMPOTENCY_KEY_IN_FLIGHT")
            assert int(answer.headers["retry-after"]) > 0
    assert len(jobs(api.ann)) == 1


def test_one_that_is_still_being_answered_is_told_apart(api: Api) -> None:
    with session_scope(api.engine) as session:
        # What the transaction of the first request does.
        held = "SELECT pg_advisory_xact_lock(hashtextextended('idempotency ann key-1', 0))"
        session.execute(text(held))
        check_problem(submit(api.ann, "key-1"), 409, "IDEMPOTENCY_KEY_IN_FLIGHT")
        assert submit(api.ann, "key-2").status_code == 202
    assert submit(api.ann, "key-1").status_code == 202


def test_a_key_goes_with_its_job(api: Api) -> None:
    first = submit(api.ann, "key-1").json()["id"]
    with session_scope(api.engine) as session:
        session.execute(text("DELETE FROM units"))
        session.execute(text("DELETE FROM jobs"))
    assert submit(api.ann, "key-1").json()["id"] != first
