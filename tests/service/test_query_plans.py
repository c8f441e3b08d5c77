"""No query of the API reads a big table from end to end: EXPLAIN on a database after a year."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, text

from service.db.events import EventRepository
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from tests.service.api_server import SMALL, Api
from tests.service.archive import BIG_TABLES, Archive, fill
from tests.service.figures import INSPECTION

JOBS, EACH, MANY = 20_000, 5, 3000
MOST_ROWS = 500
"""More than a page, and than there are live jobs."""

OF_ONE_JOB = MANY + 100
"""The evaluations of a job are read together, to find its best."""

Query = tuple[str, Any]


@pytest.fixture(scope="module")
def archive(module_api: Api) -> Archive:
    """The API's database, filled: 100,000 evaluations and more."""
    module_api.empty()
    request = module_api.ann.post("/search", json=SMALL).json()["request"]
    module_api.empty()
    archive = fill(module_api.engine, JOBS, EACH, MANY, request)
    inspection = {**INSPECTION, "architecture": {"pairs": [1, 1]}, "checkpoint_sha256": "c" * 64}
    with session_scope(module_api.engine) as session:
        jobs = JobRepository(session)
        assert jobs.set_inspection(archive.large, inspection, "Testium", "c" * 64, "d" * 64)
        assert session.scalar(text("SELECT count(*) FROM evaluations")) > 100_000
    return archive


class Recorder:
    """Every statement that any engine of this process executes."""

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.on = False

    def __call__(self, _c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if self.on:
            self.queries.append((statement, parameters))

    def of(self, call: Callable[[], Any]) -> list[Query]:
        self.queries, self.on = [], True
        try:
            call()
        finally:
            self.on = False
        return self.queries


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    event.listen(Engine, "before_cursor_execute", recorder)
    yield recorder
    event.remove(Engine, "before_cursor_execute", recorder)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(node: dict[str, Any]) -> float:
    """What a node took from its table, what it then passed over included."""
    removed = (value for name, value in node.items() if name.startswith("Rows Removed by"))
    return (node["Actual Rows"] + sum(removed)) * node["Actual Loops"]


def check_plan(engine: Engine, query: Query, most: int = MOST_ROWS) -> int:
    """How many scans of big tables the plan has; it fails where one of them reads too much."""
    statement, parameters = query
    verb = statement.split(maxsplit=1)[0].upper()
    if verb not in ("SELECT", "WITH", "UPDATE", "DELETE"):
        return 0
    with engine.connect() as connection, connection.begin() as transaction:
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        (report,) = connection.exec_driver_sql(explain, parameters).scalar_one()
        transaction.rollback()
    scans = [n for n in nodes(report["Plan"]) if n.get("Relation Name") in BIG_TABLES]
    for node in scans:
        shown = f"{node['Node Type']} on {node['Relation Name']} in {statement}"
        assert "Seq Scan" not in node["Node Type"], shown
        assert rows_read(node) <= most, f"{rows_read(node):.0f} rows: {shown}"
    return len(scans)


def watch(client: httpx.Client, path: str, last: int) -> None:
    """Reads a stream that goes on, for a poll or two."""
    headers = {"Last-Event-ID": str(last)}
    with client.stream("GET", path, headers=headers, timeout=1.0) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            for _ in answer.iter_lines():
                pass


def calls(api: Api, archive: Archive) -> dict[str, list[Callable[[], Any]]]:
    """Every route with a database behind it, in the ways that differ in their queries."""
    ann, large, ended, live = api.ann, archive.large, archive.ended, archive.live

    def get(path: str, **parameters: Any) -> Callable[[], Any]:
        def ask() -> None:
            assert ann.get(path, params=parameters).status_code in (200, 204, 404, 409)

        return ask

    def post(path: str, **options: Any) -> Callable[[], Any]:
        def ask() -> None:
            assert ann.post(path, **options).status_code in (200, 202)

        return ask

    with session_scope(api.engine) as session:
        last = EventRepository(session).last_id(large)
        page = ann.get("/jobs", params={"limit": 100}).json()
        candidates = ann.get(f"/jobs/{large}/candidates", params={"limit": 100}).json()
    key = {"Idempotency-Key": str(uuid.uuid4())}
    return {
        "POST /search": [
            post("/search", json=SMALL),
            post("/search", json=SMALL, headers=key),
            post("/search", json=SMALL, headers=key),
            post("/search?dry_run=true", json=SMALL),
        ],
        "GET /jobs": [
            get("/jobs", limit=100),
            get("/jobs", limit=100, after=page["next_cursor"]),
            *(get("/jobs", limit=100, status=one) for one in ("queued", "running", "failed")),
            get("/jobs", limit=100, status="cancelled"),
            get("/jobs", limit=100, status="failed", after=page["next_cursor"]),
        ],
        "GET /jobs/{job_id}": [get(f"/jobs/{large}"), get(f"/jobs/job_{'0' * 32}")],
        "GET /jobs/{job_id}/candidates": [
            get(f"/jobs/{large}/candidates", limit=100),
            get(f"/jobs/{large}/candidates", limit=100, after=candidates["next_cursor"]),
            get(f"/jobs/{ended}/candidates", limit=100),
        ],
        "GET /jobs/{job_id}/config": [
            get(f"/jobs/{ended}/config"),
            get(f"/jobs/{large}/config", partial="true"),
        ],
        "GET /jobs/{job_id}/pareto": [get(f"/jobs/{large}/pareto")],
        "GET /jobs/{job_id}/weights": [get(f"/jobs/{ended}/weights")],
        "GET /jobs/{job_id}/windows.png": [get(f"/jobs/{ended}/windows.png")],
        "GET /jobs/{job_id}/latency.png": [get(f"/jobs/{ended}/latency.png")],
        "GET /jobs/{job_id}/receipts/{receipt_id}": [get(f"/jobs/{ended}/receipts/rcpt_1")],
        "GET /jobs/{job_id}/events": [
            get(f"/jobs/{ended}/events"),
            lambda: watch(ann, f"/jobs/{large}/events", last),
        ],
        "POST /jobs/{job_id}/cancel": [post(f"/jobs/{live}/cancel")],
        "GET /workers": [get("/workers")],
        "GET /devices": [get("/devices")],
        "GET /metrics": [get("/metrics")],
    }


def test_no_route_reads_a_big_table_from_end_to_end(
    module_api: Api, archive: Archive, recorder: Recorder
) -> None:
    table = calls(module_api, archive)
    scans = {}
    for route, asks in table.items():
        most = OF_ONE_JOB if route.endswith("/config") else MOST_ROWS
        queries = [query for ask in asks for query in recorder.of(ask)]
        scans[route] = sum(check_plan(module_api.engine, query, most) for query in queries)
    reading = {route for route, count in scans.items() if count}
    assert reading == set(table) - {"GET /workers", "GET /devices"}
    document = module_api.nobody.get("/openapi.json").json()
    served = {
        f"{verb.upper()} {path}" for path, verbs in document["paths"].items() for verb in verbs
    }
    assert served - {"GET /healthz", "GET /readyz"} <= set(table), "a route is not looked at"


def test_nor_does_a_worker_that_looks_for_work(
    module_api: Api, archive: Archive, recorder: Recorder
) -> None:
    def look() -> None:
        with session_scope(module_api.engine) as session:
            units = UnitRepository(session)
            unit = units.claim("w", "Testium", "uuid", 60)
            assert unit is not None
            units.heartbeat(unit.id, unit.attempt, 60)
            units.release(unit.id, unit.attempt)
            units.expire()
            units.under_way(archive.large)
            units.for_job(archive.large)
            JobRepository(session).due_for_step()

    assert sum(check_plan(module_api.engine, query) for query in recorder.of(look)) >= 6


def test_a_scan_from_end_to_end_is_noticed(module_api: Api, archive: Archive) -> None:
    for query in ("SELECT * FROM evaluations WHERE metric > 0.5", "SELECT count(*) FROM units"):
        with pytest.raises(AssertionError, match=re.escape(query)):
            check_plan(module_api.engine, (query, None))
