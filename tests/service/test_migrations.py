"""Migrations on a real, empty Postgres: up, no drift, down, and two processes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import inspect, text

from service.db.events import EventRepository
from service.db.migrate import check, downgrade, is_current, upgrade
from service.db.models import Base
from service.db.session import make_engine, session_scope

PROGRAM = "import sys; from service.db.migrate import upgrade; upgrade(sys.argv[1])"
ROOT = Path(__file__).parents[2]

JOBS = "INSERT INTO jobs (id, owner, status, stage, request, progress, metadata, latency_map_key)"
UNITS = "INSERT INTO units (job_id, kind, payload, state)"
EVALUATIONS = (
    "INSERT INTO evaluations (job_id, config_key, generation, position, genes, state, latency_ms)"
)
OLD_ROWS = [
    "INSERT INTO latency_maps (key, device, document) VALUES ('old', 'Testium', '{}')",
    f"{JOBS} VALUES ('new', 'ann', 'running', 'inspect', '{{}}', '{{}}', '{{}}', NULL)",
    f"{JOBS} VALUES ('searching', 'ann', 'running', 'search', '{{}}', '{{}}', '{{}}', 'old')",
    f"{JOBS} VALUES ('done', 'ann', 'succeeded', NULL, '{{}}', '{{}}', '{{}}', 'old')",
    f"{UNITS} VALUES ('new', 'inspect', '{{}}', 'leased')",
    f"{UNITS} VALUES ('searching', 'inspect', '{{}}', 'done')",
    f"{UNITS} VALUES ('searching', 'calibrate', '{{}}', 'done')",
    f"{UNITS} VALUES ('searching', 'evaluate', '{{}}', 'leased')",
    f"{UNITS} VALUES ('done', 'measure', '{{}}', 'done')",
    f"{EVALUATIONS} VALUES ('searching', 'a', 0, 0, '[]', 'pending', 1.0)",
    f"{EVALUATIONS} VALUES ('done', 'a', 0, 0, '[]', 'done', 1.0)",
]


def test_migrations_build_exactly_the_models_tables(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    try:
        assert not is_current(engine)
        upgrade(empty_database_url)
        assert is_current(engine)
        check(empty_database_url)
        downgrade(empty_database_url)
        assert not set(Base.metadata.tables) & set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_maps_without_figures_go_and_searches_that_used_them_calibrate_again(
    empty_database_url: str,
) -> None:
    upgrade(empty_database_url, "0001")
    engine = make_engine(empty_database_url)
    try:
        with engine.begin() as connection:
            for row in OLD_ROWS:
                connection.execute(text(row))
        upgrade(empty_database_url)
        with engine.connect() as connection:
            jobs = connection.execute(text("SELECT id, status, stage, latency_map_key, dry_run "
                                           "FROM jobs ORDER BY id")).all()  # fmt: skip
            units = connection.execute(text("SELECT job_id, kind FROM units ORDER BY id")).all()
            left = [
                connection.scalar(text(f"SELECT count(*) FROM {table}"))
                for table in ("latency_maps", "evaluations")
            ]
        downgrade(empty_database_url, "0001")
    finally:
        downgrade(empty_database_url)
        engine.dispose()
    assert jobs == [
        ("done", "succeeded", None, "old", False),
        ("new", "running", "inspect", None, False),
        ("searching", "running", "calibrate", None, False),
    ]
    assert units == [("new", "inspect"), ("searching", "inspect"), ("done", "measure")]
    assert left == [0, 1]


def test_an_older_version_gets_no_job_with_several_inputs(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    engine = make_engine(empty_database_url)
    several, one = '{"input": [{}, {}]}', '{"input": {}}'
    jobs = {"live": ("running", several), "over": ("succeeded", several), "one": ("running", one)}
    try:
        with engine.begin() as connection:
            for job, (status, request) in jobs.items():
                row = f"{JOBS} VALUES (:id, 'ann', :status, NULL, :request, '{{}}', '{{}}', NULL)"
                values = {"id": job, "status": status, "request": request}
                connection.execute(text(row), values)
            for resolution in (0, 1):
                for row in (
                    "INSERT INTO units (job_id, kind, resolution, payload, state) "
                    "VALUES ('over', 'measure', :resolution, '{}', 'done')",
                    "INSERT INTO evaluations (job_id, config_key, resolution, generation, position, "
                    "genes, state, latency_ms) VALUES ('over', 'a', :resolution, 0, 0, '[]', "
                    "'done', 1.0)",
                ):
                    connection.execute(text(row), {"resolution": resolution})
        downgrade(empty_database_url, "0007")
        with engine.connect() as connection:
            left = connection.execute(text("SELECT id, status FROM jobs ORDER BY id")).all()
            counts = [
                connection.scalar(text(f"SELECT count(*) FROM {table}"))
                for table in ("units", "evaluations")
            ]
        upgrade(empty_database_url)
        check(empty_database_url)
    finally:
        downgrade(empty_database_url)
        engine.dispose()
    assert left == [("live", "cancelled"), ("one", "running"), ("over", "succeeded")]
    assert counts == [1, 1]


def test_an_older_version_gets_no_job_that_is_to_train(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    engine = make_engine(empty_database_url)
    request = '{"adapt": %s, "finetune": %s}'
    jobs = {
        "adapting": ("running", request % ("{}", "null")),
        "tuning": ("queued", request % ("null", '{"epochs": 4}')),
        "plain": ("running", request % ("null", "null")),
        "done": ("succeeded", request % ("{}", "{}")),
    }
    try:
        with engine.begin() as connection:
            for job_id, (status, body) in jobs.items():
                row = f"{JOBS} VALUES (:id, 'ann', :status, NULL, :body, '{{}}', '{{}}', NULL)"
                values = {"id": job_id, "status": status, "body": body}
                connection.execute(text(row), values)
        downgrade(empty_database_url, "0002")
        with engine.connect() as connection:
            left = connection.execute(text("SELECT id, status FROM jobs ORDER BY id")).all()
        upgrade(empty_database_url)
        check(empty_database_url)
    finally:
        downgrade(empty_database_url)
        engine.dispose()
    assert left == [
        ("adapting", "cancelled"),
        ("done", "succeeded"),
        ("plain", "running"),
        ("tuning", "cancelled"),
    ]


def test_an_older_version_gets_whole_shards(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    engine = make_engine(empty_database_url)
    units = [("live", -1, "broken"), ("live", 0, "broken"), ("live", 1, "pending")]
    units += [("over", -1, "broken"), ("over", 0, "done")]
    insert = """
        INSERT INTO units (job_id, kind, generation, shard, part, payload, state, failures)
        VALUES (:job, 'evaluate', 0, 0, :part, '{}', :state, 2)
    """
    try:
        with engine.begin() as connection:
            for job, status in (("live", "running"), ("over", "failed")):
                row = f"{JOBS} VALUES (:id, 'ann', :status, NULL, '{{}}', '{{}}', '{{}}', NULL)"
                connection.execute(text(row), {"id": job, "status": status})
            for job, part, state in units:
                connection.execute(text(insert), {"job": job, "part": part, "state": state})
        downgrade(empty_database_url, "0003")
        with engine.connect() as connection:
            statement = "SELECT job_id, state, failures FROM units ORDER BY id"
            left = connection.execute(text(statement)).all()
        upgrade(empty_database_url)
        check(empty_database_url)
    finally:
        downgrade(empty_database_url)
        engine.dispose()
    assert left == [("live", "pending", 0), ("over", "failed", 2)]


def test_jobs_of_before_there_were_events_get_one(empty_database_url: str) -> None:
    upgrade(empty_database_url, "0005")
    engine = make_engine(empty_database_url)
    job = f"{JOBS} VALUES (:id, 'ann', :id, :stage, '{{}}', '{{}}', '{{}}', NULL)"
    try:
        with engine.begin() as connection:
            for status, stage in (("running", "search"), ("succeeded", None)):
                connection.execute(text(job), {"id": status, "stage": stage})
        upgrade(empty_database_url)
        with session_scope(engine) as session:
            found = EventRepository(session).of_jobs({"running": 0, "succeeded": 0})
        downgrade(empty_database_url, "0005")
    finally:
        downgrade(empty_database_url)
        engine.dispose()
    assert [(one.job_id, one.data["stage"], one.last) for one in found] == [
        ("running", "search", False),
        ("succeeded", None, True),
    ]


def test_an_older_version_takes_nothing_on_some_images_for_a_metric(
    empty_database_url: str,
) -> None:
    """Searches under way begin again, both ways; what was dropped has failed to older readers."""
    upgrade(empty_database_url, "0004")
    engine = make_engine(empty_database_url)
    progress = '{"done": 3, "failed": 0, "total": 9, "generation": 1, "best": null}'
    try:
        with engine.begin() as connection:
            for job, status, stage in (
                ("searching", "running", "search"),
                ("proving", "running", "verify"),
                ("over", "succeeded", None),
            ):
                row = (
                    f"{JOBS} VALUES (:id, 'ann', :status, :stage, '{{}}', :progress, '{{}}', NULL)"
                )
                values = {"id": job, "status": status, "stage": stage, "progress": progress}
                connection.execute(text(row), values)
                insert = f"{UNITS} VALUES (:job, 'inspect', '{{}}', 'done')"
                connection.execute(text(insert), {"job": job})
                insert = (
                    "INSERT INTO units (job_id, kind, generation, shard, payload, state) "
                    "VALUES (:job, 'evaluate', 0, 0, '{}', 'done')"
                )
                connection.execute(text(insert), {"job": job})
                connection.execute(
                    text(f"{EVALUATIONS} VALUES (:job, 'a', 0, 0, '[]', 'done', 1.0)"), {"job": job}
                )
        upgrade(empty_database_url, "0005")
        with engine.begin() as connection:
            units = connection.execute(text("SELECT job_id, kind FROM units ORDER BY id")).all()
            evaluations = connection.scalars(text("SELECT job_id FROM evaluations")).all()
            begun = connection.scalar(text("SELECT progress FROM jobs WHERE id = 'searching'"))
            connection.execute(
                text(
                    "UPDATE evaluations SET state = 'dropped', metric = 0.5, images = 8 "
                    "WHERE job_id = 'over'"
                )
            )
        downgrade(empty_database_url, "0004")
        with engine.connect() as connection:
            statement = "SELECT state, metric FROM evaluations WHERE job_id = 'over'"
            dropped = connection.execute(text(statement)).all()
    finally:
        downgrade(empty_database_url)
        engine.dispose()
    assert units == [
        ("searching", "inspect"),
        ("proving", "inspect"),
        ("proving", "evaluate"),
        ("over", "inspect"),
        ("over", "evaluate"),
    ]
    assert evaluations == ["proving", "over"]
    assert (begun["done"], begun["total"], begun["generation"]) == (0, 9, None)
    assert dropped == [("failed", None)]


def test_two_servers_that_start_together_migrate_once(empty_database_url: str) -> None:
    command = [sys.executable, "-c", PROGRAM, empty_database_url]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    check(empty_database_url)
