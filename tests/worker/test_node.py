"""Whole workers as real processes on real Postgres and Redis; only the device is made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sqlalchemy import URL, create_engine, text

from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.domain.status import JobStatus, UnitState, WorkerState
from service.queue import make_celery, wake_units
from tests.worker import rows
from tests.worker.conftest import Database, NewJob, WorkerProcess, wait_until

StartWorker = Callable[..., WorkerProcess]


def device_process(worker: WorkerProcess) -> psutil.Process:
    (child,) = psutil.Process(worker.process.pid).children()
    return child


def test_a_worker_starts_runs_a_job_and_says_goodbye(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    job = new_job()
    began = time.monotonic()
    worker = start_worker("one")
    database.wait_for_end(job)
    database.check_complete(job)
    assert time.monotonic() - began < 10
    seen = database.workers()["one"]
    assert (seen.device, seen.device_uuid, seen.online) == (rows.DEVICE["model"], "CPU-1", True)
    assert seen.versions == {"torch": "none", "driver": None}
    child = device_process(worker)
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(10) == 0
    assert not child.is_running()
    assert database.workers()["one"].state == WorkerState.STOPPED


def test_wake_ups_make_a_job_faster_than_the_sweep(
    database: Database, new_job: NewJob, start_worker: StartWorker, redis_url: str
) -> None:
    worker = start_worker("one", SWEEP_SECONDS="600")
    worker.wait_for("is ready")
    job = new_job()
    celery = make_celery(redis_url)
    assert wake_units(celery, None)
    celery.close()
    database.wait_for_end(job, 10)
    database.check_complete(job)


def test_kill_9_of_the_worker_in_the_middle(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    job = new_job()
    first = start_worker("first", FAKE_SECONDS="0.3")
    database.wait_for_leased(job, "evaluate")
    child = device_process(first)
    first.kill()
    start_worker("second")
    database.wait_for_end(job)
    database.check_complete(job)
    assert not child.is_running()
    assert {unit.worker_id for unit in database.units(job)} == {"first", "second"}


def test_kill_9_of_the_device_process_in_the_middle(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    job = new_job()
    worker = start_worker("one", FAKE_SECONDS="0.3")
    (unit,) = database.wait_for_leased(job, "evaluate")
    device_process(worker).kill()
    database.wait_for_end(job)
    database.check_complete(job)
    assert worker.process.poll() is None
    (killed,) = [u for u in database.units(job) if u.id == unit.id]
    assert (killed.attempt, killed.failures, killed.state) == (2, 1, UnitState.DONE)


def test_a_stopped_worker_that_goes_on_is_refused(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    job = new_job()
    first = start_worker("first", FAKE_SECONDS="1.5")
    (unit,) = database.wait_for_leased(job, "evaluate")
    first.signal(signal.SIGSTOP)
    # The first one's device process lives on, and holds the device no more: another host's does.
    start_worker("second", FAKE_UUID="CPU-2")
    wait_until(lambda: "leases ran out" in (first.log.parent / "second.log").read_text(), 20)
    first.signal(signal.SIGCONT)
    database.wait_for_end(job)
    database.check_complete(job)
    (taken,) = [u for u in database.units(job) if u.id == unit.id]
    assert (taken.attempt, taken.failures) == (2, 1)
    first.wait_for("too late")


def test_two_workers_share_a_job(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    for name, uuid in (("one", "CPU-1"), ("two", "CPU-2")):
        start_worker(name, FAKE_UUID=uuid, FAKE_SECONDS="0.2").wait_for("is ready")
    job = new_job()
    database.wait_for_end(job)
    database.check_complete(job)
    evaluated = [unit for unit in database.units(job) if unit.kind == "evaluate"]
    assert {unit.worker_id for unit in evaluated} == {"one", "two"}


def test_sigterm_gives_a_long_unit_back(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    job = new_job()
    first = start_worker("first", FAKE_SECONDS="60", LEASE_SECONDS="600")
    database.wait_for_leased(job, "inspect")
    child = device_process(first)
    first.signal(signal.SIGTERM)
    assert first.process.wait(12) == 0
    assert not child.is_running()
    (released,) = database.units(job)
    assert (released.state, released.failures) == (UnitState.PENDING, 0)
    start_worker("second")
    database.wait_for_end(job)
    database.check_complete(job)


def test_a_cancel_frees_the_device_within_two_heartbeats(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    job = new_job()
    worker = start_worker("one", FAKE_SECONDS="60")
    database.wait_for_leased(job, "inspect")
    child = device_process(worker)
    with session_scope(database.engine) as session:
        assert JobRepository(session).request_cancel(job.id)
    began = time.monotonic()
    wait_until(lambda: not child.is_running(), 10)
    assert time.monotonic() - began < 2 * 1.0 + 0.5
    assert database.wait_for_end(job, 5).status == JobStatus.CANCELLED


def test_jobs_go_on_without_redis(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    job = new_job()
    worker = start_worker("one", REDIS_URL="redis://127.0.0.1:1/0", SWEEP_SECONDS="0.5")
    database.wait_for_end(job, 30)
    database.check_complete(job)
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(15) == 0


def test_jobs_go_on_after_the_database_was_away(
    database: Database, new_job: NewJob, start_worker: StartWorker, server_url: URL
) -> None:
    job = new_job()
    worker = start_worker("one", FAKE_SECONDS="0.5")
    database.wait_for_leased(job, "evaluate")
    name = database.engine.url.database
    admin = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        for _ in range(2):
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                ),
                {"name": name},
            )
            time.sleep(2.0)  # longer than the lease, together
        assert worker.process.poll() is None
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    admin.dispose()
    database.wait_for_end(job)
    database.check_complete(job)


def test_a_device_that_does_not_open_ends_the_worker(start_worker: StartWorker) -> None:
    worker = start_worker("one", "refuse")
    assert worker.process.wait(15) == 1
    assert "error: no such device" in worker.text


def test_a_device_process_that_dies_before_it_has_opened_is_started_again(
    start_worker: StartWorker,
) -> None:
    worker = start_worker("one")
    wait_until(lambda: bool(psutil.Process(worker.process.pid).children()))
    assert "is ready" not in worker.text
    device_process(worker).kill()
    worker.wait_for("is ready")
    assert "does not open" in worker.text


def test_a_device_process_that_dies_whenever_it_opens_ends_the_worker(
    start_worker: StartWorker,
) -> None:
    worker = start_worker("one", "die")
    assert worker.process.wait(30) == 1
    assert "error: The process that owns the device exited with status 7" in worker.text


def test_missing_settings_are_named() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "DATABASE_URL is not set" in done.stderr


@pytest.mark.parametrize("option", ["--device=tpu", "--name=a b"])
def test_a_wrong_option_says_what_to_give(option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker", option],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
