"""GET /metrics: who may read it, its form, and that its numbers are those of what happened."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from service.api.metrics import metric
from service.db.jobs import JobRepository
from service.db.keys import KeyRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.db.workers import WorkerRepository
from service.domain.records import Unit
from service.domain.status import UnitKind
from tests.service.api_server import SMALL, Api, running_api
from tests.service.conftest import add_job
from tests.service.test_body import check_problem
from worker.leases import Leases

# The grammar of the text format: https://prometheus.io/docs/instrumenting/exposition_formats/
LINE = re.compile(
    r"# (HELP|TYPE) [a-z_]+ [^\n]+"
    r'|[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\"n])*")*\})? [0-9.e+-]+'
)


def scrape(api: Api) -> dict[str, float]:
    """Every sample, by its name and labels as they stand."""
    answer = api.ann.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    assert len({name for name, _, _ in samples}) == len(samples)
    return {name.removeprefix("sparsevit_"): float(value) for name, _, value in samples}


def test_an_idle_service_has_its_gauges_at_zero(api: Api) -> None:
    assert scrape(api) == {
        'jobs{status="queued"}': 0,
        'jobs{status="running"}': 0,
        'jobs{status="cancelling"}': 0,
        "oldest_pending_unit_seconds": 0,
        "broker_up": 1,
    }


def test_it_takes_an_admin_key_or_the_services_own_machine(api: Api) -> None:
    with session_scope(api.engine) as session:
        admin = KeyRepository(session).create("operator", "prometheus", admin=True)
    elsewhere = {"X-Forwarded-For": "203.0.113.9"}  # of a proxy on this machine
    check_problem(api.nobody.get("/metrics"), 401, "UNAUTHENTICATED")
    check_problem(api.ann.get("/metrics", headers=elsewhere), 403, "FORBIDDEN")
    check_problem(api.ann.get("/metrics", params={"x": "1"}), 422, "VALIDATION_FAILED")
    assert api.ann.get("/metrics").status_code == 200
    headers = {**elsewhere, "Authorization": f"Bearer {admin}"}
    assert api.nobody.get("/metrics", headers=headers).status_code == 200
    assert api.nobody.get("/jobs", headers=headers).json()["data"] == [], "no other's jobs"


def test_a_broker_that_is_away_is_down(database_url: str, tmp_path: Path) -> None:
    with running_api(database_url, "redis://127.0.0.1:1/0", tmp_path) as api:
        assert scrape(api)["broker_up"] == 0


def test_jobs_are_counted_where_they_stand_and_as_they_end(api: Api) -> None:
    jobs = [add_job(api.engine) for _ in range(4)]
    assert scrape(api)['jobs{status="queued"}'] == 4
    with session_scope(api.engine) as session:
        repository = JobRepository(session)
        for job_id in jobs[:3]:
            repository.start(job_id)
        repository.succeed(jobs[0], {"z": 1})
        repository.fail(jobs[1], "CODE", "do this")
        assert not repository.fail(jobs[1], "CODE", "and again")
        repository.request_cancel(jobs[2])
        repository.cancelled(jobs[3])
    found = scrape(api)
    assert found['jobs{status="queued"}'] == 0
    assert found['jobs{status="cancelling"}'] == 1
    for status in ("succeeded", "failed", "cancelled"):
        assert found[f'jobs_ended_total{{kind="search",status="{status}"}}'] == 1
        assert 0 < found[f'jobs_ended_seconds_total{{kind="search",status="{status}"}}'] < 60
    with session_scope(api.engine) as session:
        session.execute(text("DELETE FROM jobs"))
    ended = {name for name in scrape(api) if "ended" in name}
    assert len(ended) == 6, "what is deleted stays counted"


@pytest.fixture
def leases(api: Api, tmp_path: Path) -> Leases:
    """Those of a worker with nothing but its database."""
    return Leases(api.engine, "w1", 60, tmp_path)


def claimed(api: Api, leases: Leases, kind: UnitKind) -> Unit:
    with session_scope(api.engine) as session:
        UnitRepository(session).add(add_job(api.engine), kind, {}, device="Testium")
    unit = leases.claim("Testium", "uuid")
    assert unit is not None
    return unit


def receipt(disturbed: bool) -> dict[str, Any]:
    return {"id": "r", "latency_ms": {"disturbed": disturbed}}


ENDS: list[tuple[UnitKind, str, Callable[[Leases, Unit], Any]]] = [
    (UnitKind.INSPECT, "done", lambda leases, unit: leases.finish(unit, {})),
    (UnitKind.EVALUATE, "retried", lambda leases, unit: leases.fail(unit, {"code": "X"}, True)),
    (UnitKind.ADAPT, "failed", lambda leases, unit: leases.fail(unit, {"code": "X"}, False)),
    (UnitKind.EVALUATE, "released", lambda leases, unit: leases.release(unit)),
    (UnitKind.MEASURE, "cancelled", lambda leases, unit: leases.cancel(unit)),
]


def outcomes(found: dict[str, float]) -> dict[str, float]:
    """How many attempts had which outcome, by 'kind outcome'."""
    pattern = re.compile(r'unit_attempts_total\{kind="(\w+)",outcome="(\w+)"\}')
    matches = {name: pattern.fullmatch(name) for name in found}
    return {f"{match[1]} {match[2]}": found[name] for name, match in matches.items() if match}


@pytest.mark.parametrize(("kind", "outcome", "end"), ENDS)
def test_an_attempt_is_counted_as_it_ended(
    api: Api, leases: Leases, kind: UnitKind, outcome: str, end: Callable[[Leases, Unit], Any]
) -> None:
    unit = claimed(api, leases, kind)
    live = f'units{{kind="{kind}",state="leased",device="Testium"}}'
    assert scrape(api)[live] == 1
    end(leases, unit)
    found = scrape(api)
    assert outcomes(found) == {f"{kind} {outcome}": 1}
    assert 0 <= found[f'unit_attempts_seconds_total{{kind="{kind}",outcome="{outcome}"}}'] < 60
    assert live not in found
    end(leases, unit)
    assert outcomes(scrape(api)) == {f"{kind} {outcome}": 1, f"{kind} fenced": 1}


def test_a_lease_that_runs_out_and_the_late_result_are_counted(api: Api, leases: Leases) -> None:
    unit = claimed(api, leases, UnitKind.EVALUATE)
    with session_scope(api.engine) as session:
        session.execute(text("UPDATE units SET lease_until = now() - interval '1 s'"))
    with session_scope(api.engine) as session:
        assert UnitRepository(session).expire() == [unit.job_id]
    assert not leases.finish(unit, {"receipts": {"r": receipt(True)}})
    found = scrape(api)
    assert outcomes(found) == {"evaluate expired": 1, "evaluate fenced": 1}
    assert found['units{kind="evaluate",state="pending",device="Testium"}'] == 1
    assert not any(name.startswith("measurements") for name in found)


def test_measurements_are_counted_by_what_their_receipts_say(api: Api, leases: Leases) -> None:
    calibration = {"map": {}, "receipt": receipt(False)}
    leases.finish(claimed(api, leases, UnitKind.CALIBRATE), calibration)
    measured = {"receipts": {"a": receipt(True), "b": receipt(False), "c": receipt(True)}}
    leases.finish(claimed(api, leases, UnitKind.MEASURE), measured)
    found = scrape(api)
    assert {name: count for name, count in found.items() if name.startswith("measurements")} == {
        'measurements_total{kind="calibrate",outcome="quiet"}': 1,
        'measurements_total{kind="measure",outcome="disturbed"}': 2,
        'measurements_total{kind="measure",outcome="quiet"}': 1,
    }


def test_the_oldest_unit_that_waits_and_workers_have_ages(api: Api) -> None:
    assert httpx.post(f"{api.url}/search", json=SMALL, headers=api.ann.headers).is_success
    with session_scope(api.engine) as session:
        workers = WorkerRepository(session)
        for name in ("here", "gone", "forgotten"):
            workers.register(name, 'Testium "3000"', "uuid", "cpu", "host", {})
        workers.stopped("gone")
        past = "UPDATE workers SET seen_at = now() - interval '2 days' WHERE id = 'forgotten'"
        session.execute(text(past))
        session.execute(text("UPDATE units SET created_at = now() - interval '100 s'"))
    found = scrape(api)
    assert found['units{kind="inspect",state="pending",device="any"}'] == 1
    assert 100 <= found["oldest_pending_unit_seconds"] < 160
    (seen,) = [name for name in found if name.startswith("worker_seen")]
    assert seen == (
        r'worker_seen_seconds_ago{worker="here",device="Testium \"3000\"",state="idle"}'
    )
    assert 0 <= found[seen] < 60


def test_labels_are_escaped_as_the_format_asks() -> None:
    written = metric("x", "gauge", "About.", [({"a": 'q"b\\c\nd'}, 1.5)])
    assert written.splitlines() == [
        "# HELP sparsevit_x About.",
        "# TYPE sparsevit_x gauge",
        r'sparsevit_x{a="q\"b\\c\nd"} 1.5',
    ]


def test_the_documentation_names_the_metrics_there_are(api: Api) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    written = set(re.findall(r"^\| `(sparsevit_\w+)`", page, re.MULTILINE))
    used = set(re.findall(r"sparsevit_\w+", page))
    answered = set(re.findall(r"# TYPE (\w+) ", api.ann.get("/metrics").text))
    assert written == used == answered
