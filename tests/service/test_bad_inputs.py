"""The contract's table of bad inputs, first half: what is refused at once, row by row over HTTP.

Files whose jobs fail are in test_bad_inputs_files.py. After each row the service answers, and no
search was started.
"""

from __future__ import annotations

import gzip
import json
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import text

from service.api.body import MAX_BYTES
from service.api.problems import MEDIA_TYPE
from service.db.jobs import JobRepository
from service.db.session import session_scope
from tests.service.api_server import SMALL, Api
from tests.service.figures import Lab
from tests.service.test_api_jobs import submit
from tests.service.test_body import INVALID, MALFORMED, budget_ms, check_problem, post, with_

Send = Callable[[Api], httpx.Response]


@pytest.fixture(autouse=True)
def lives_on(api: Api, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Counts the row, and looks after the service when it is done."""
    record_property("bad inputs tried", 1)
    yield
    assert api.nobody.get("/healthz").status_code == 200
    assert api.ann.get("/jobs").status_code == 200
    assert api.ann.post("/search", json=SMALL | {"device": None}).status_code == 202


def jobs_in(api: Api) -> int:
    with session_scope(api.engine) as session:
        return session.scalar(text("SELECT count(*) FROM jobs")) or 0


def check_refused(
    api: Api, send: Send, status: int, code: str, pointers: list[str]
) -> dict[str, Any]:
    """The answer says so, points at the field and repeats nothing; no search was started."""
    before = jobs_in(api)
    problem = check_problem(send(api), status, code)
    assert [error["pointer"] for error in problem["errors"]] == pointers
    assert problem["detail"]
    assert jobs_in(api) == before
    return dict(problem)


def raw(body: bytes, **headers: str) -> Send:
    return lambda api: post(api, body, **headers)


def get(path: str, **headers: str) -> Send:
    return lambda api: api.ann.get(path, headers=headers)


MALFORMED_ROWS = [
    "empty",
    "cut short",
    "trailing text",
    "bytes FF FE",
    "NaN",
    "Infinity",
    "duplicate key",
    "nested brackets",
    "5,000 digits",
    "UTF-16",
]


@pytest.mark.parametrize("row", MALFORMED_ROWS)
def test_malformed_json(api: Api, row: str) -> None:
    check_refused(api, raw(MALFORMED[row]), 400, "MALFORMED_JSON", [])


def test_64_kib_and_a_byte(api: Api) -> None:
    body = with_()
    padded = body + b" " * (MAX_BYTES + 1 - len(body))
    check_refused(api, raw(padded), 413, "BODY_TOO_LARGE", [])


def test_an_endless_chunked_body(api: Api) -> None:
    """It is answered while it is still being sent."""
    address = urlsplit(api.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer " + api.key.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunks = 0
        while not select.select([connection], [], [], 0.01)[0]:
            connection.sendall(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
            chunks += 1
            assert chunks < 1000, "the service went on reading"
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert MEDIA_TYPE.encode() in answer
    assert jobs_in(api) == 0


BOMB = gzip.compress(b" " * 30_000_000)


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(raw(with_(), **{"Content-Type": "text/plain"}), id="text/plain"),
        pytest.param(raw(BOMB, **{"Content-Encoding": "gzip"}), id="a gzip bomb"),
    ],
)
def test_unsupported_media_types(api: Api, send: Send) -> None:
    check_refused(api, send, 415, "UNSUPPORTED_MEDIA_TYPE", [])


def metadata(keys: int) -> bytes:
    """A request with that many of them, as short as can be."""
    body = SMALL | {"metadata": {chr(0x4E00 + number): "" for number in range(keys)}}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


FIELD_ROWS: dict[str, tuple[Send, list[str]]] = {
    "budget 1e999": (raw(budget_ms("1e999")), ["/latency_budget_ms"]),
    'budget "NaN"': (raw(budget_ms('"NaN"')), ["/latency_budget_ms"]),
    "budget -5": (raw(budget_ms("-5")), ["/latency_budget_ms"]),
    "budget 0": (raw(budget_ms("0")), ["/latency_budget_ms"]),
    "budget true": (raw(budget_ms("true")), ["/latency_budget_ms"]),
    'budget "5"': (raw(budget_ms('"5"')), ["/latency_budget_ms"]),
    "both budgets": (raw(with_(latency_budget_ms=5)), [""]),
    "unknown field latncy_ms": (raw(with_(latncy_ms=5)), [""]),
    "NUL": (raw(with_(checkpoint="/data/\0")), ["/checkpoint"]),
    "a lone surrogate": (raw(with_(checkpoint="\ud800")), ["/checkpoint"]),
    "CR LF in metadata": (raw(with_(metadata={"a": "x\r\ny"})), ["/metadata"]),
    "1e12 evaluations": (raw(INVALID["1e12 evaluations"][0]), ["/search/max_evaluations"]),
    "seed 2^64": (raw(INVALID["seed 2^64"][0]), ["/search/seed"]),
    "metadata keys that fit a body": (raw(metadata(7_000)), ["/metadata"]),
    "cuda:999": (raw(with_(device="cuda:999")), ["/device"]),
    "height 8": (raw(with_(input={"height": 8})), ["/input/height"]),
    "height 100000": (raw(with_(input={"height": 100000})), ["/input/height"]),
    "limit=-1": (get("/jobs?limit=-1"), ["/limit"]),
    "limit=1e20": (get("/jobs?limit=1e20"), ["/limit"]),
    "limit=1_0": (get("/jobs?limit=1_0"), ["/limit"]),
    "limit=5.0": (get("/jobs?limit=5.0"), ["/limit"]),
    "a forged cursor": (get("/jobs?after=job_" + "0" * 32), ["/after"]),
}


@pytest.mark.parametrize("row", FIELD_ROWS)
def test_fields_and_parameters(api: Api, row: str) -> None:
    send, pointers = FIELD_ROWS[row]
    check_refused(api, send, 422, "VALIDATION_FAILED", pointers)


def test_10000_metadata_keys_are_more_than_a_body_holds(api: Api) -> None:
    check_refused(api, raw(metadata(10_000)), 413, "BODY_TOO_LARGE", [])


@pytest.mark.parametrize("bad", ["x", "-1", "1e3", "9" * 30])
def test_a_bad_last_event_id(api: Api, bad: str) -> None:
    send = get(f"/jobs/{submit(api)['id']}/events", **{"Last-Event-ID": bad})
    check_refused(api, send, 422, "VALIDATION_FAILED", ["/Last-Event-ID"])


@pytest.fixture
def data(api: Api, tmp_path: Path) -> Path:
    """The folder that may be read, with ways out of it."""
    (tmp_path / "secret").write_text("secret")
    for name, target in (("out", tmp_path / "secret"), ("out-folder", tmp_path)):
        link = api.data / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    if not (api.data / "fifo").exists():
        os.mkfifo(api.data / "fifo")
    return api.data


PATHS = {
    "dots": "../../etc/passwd",
    "dots from the folder": "{data}/../../../../etc/passwd",
    "/etc/shadow": "/etc/shadow",
    "backslashes": "..\\..\\x",
    "escaped twice": "%252e%252e%252f",
    "file URL": "file:///etc/passwd",
    "a symlink out": "{data}/out",
    "through a symlink out": "{data}/out-folder/secret",
    "environ": "/proc/self/environ",
    "a FIFO": "{data}/fifo",
    "/dev/zero": "/dev/zero",
    "5 KB": "{data}/" + "x" * 5000,
}
URLS = ["http://169.254.169.254", "http://localhost:6379", "s3://x"]
FIELDS = {"checkpoint": "/checkpoint", "dataset": "/dataset/path"}


def check_path(api: Api, field: str, path: str, code: str) -> None:
    problem = check_refused(api, raw(with_(**{field: path})), 422, code, [FIELDS[field]])
    assert path not in str(problem)
    assert "secret" not in str(problem)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("row", PATHS)
def test_paths_that_are_not_allowed(api: Api, data: Path, field: str, row: str) -> None:
    check_path(api, field, PATHS[row].replace("{data}", str(data)), "PATH_NOT_ALLOWED")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("url", URLS)
def test_urls(api: Api, field: str, url: str) -> None:
    check_path(api, field, url, "URL_NOT_ALLOWED")


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_file(api: Api, data: Path, field: str) -> None:
    check_path(api, field, f"{data}/missing", "ARTIFACT_NOT_FOUND")


def test_a_budget_that_is_known_to_be_out_of_reach(api: Api) -> None:
    lab = Lab(api)
    lab.register()
    lab.measure(submit(api)["id"])
    send, pointer = raw(budget_ms("0.01")), "/latency_budget_ms"
    problem = check_refused(api, send, 422, "BUDGET_UNREACHABLE", [pointer])
    assert "nearest possible budget is 62.000 ms" in problem["detail"]


KEY = {"Idempotency-Key": "key-1"}


def test_an_idempotency_key_with_another_body(api: Api) -> None:
    assert post(api, with_(), **KEY).status_code == 202
    other = raw(with_(latency_budget="61%"), **KEY)
    check_refused(api, other, 422, "IDEMPOTENCY_KEY_REUSED", [])


def test_an_idempotency_key_whose_first_request_is_being_answered(api: Api) -> None:
    with session_scope(api.engine) as session:
        # What the transaction of the first request does.
        held = "SELECT pg_advisory_xact_lock(hashtextextended('idempotency ann key-1', 0))"
        session.execute(text(held))
        check_refused(api, raw(with_(), **KEY), 409, "IDEMPOTENCY_KEY_IN_FLIGHT", [])


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_an_idempotency_key_of_300_characters(api: Api, query: str) -> None:
    headers = {"Idempotency-Key": "x" * 300}
    check_refused(
        api,
        lambda api: api.ann.post(f"/search{query}", json=SMALL, headers=headers),
        400,
        "IDEMPOTENCY_KEY_INVALID",
        [],
    )


@pytest.mark.parametrize("key", [None, "' OR 1=1--"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_key_or_with_sql_for_one(api: Api, key: str | None, method: str) -> None:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    path = "/jobs" if method == "GET" else "/search"
    send = lambda api: api.nobody.request(method, path, json=SMALL, headers=headers)  # noqa: E731
    check_refused(api, send, 401, "UNAUTHENTICATED", [])


def test_another_owners_job(api: Api) -> None:
    path = f"/jobs/{submit(api)['id']}"
    for send in (lambda api: api.bob.get(path), lambda api: api.bob.post(f"{path}/cancel")):
        check_refused(api, send, 404, "JOB_NOT_FOUND", [])


def test_nul_for_an_id(api: Api) -> None:
    check_refused(api, get("/jobs/%00"), 404, "JOB_NOT_FOUND", [])


def test_a_thousand_ranges(api: Api) -> None:
    job_id = submit(api)["id"]
    with session_scope(api.engine) as session:
        jobs = JobRepository(session)
        jobs.start(job_id)
        jobs.succeed(job_id, {"schema_version": 1})
    path = f"/jobs/{job_id}/config"
    ranges = ",".join(f"{n}-{n}" for n in range(1000))
    answer = api.ann.get(path, headers={"Range": f"bytes={ranges}"})
    assert (answer.status_code, answer.content) == (200, api.ann.get(path).content)
