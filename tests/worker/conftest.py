"""A real database with jobs in it, and workers on it as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from service.client import Client
from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.session import make_engine, session_scope
from service.db.units import UnitRepository
from service.db.workers import WorkerRepository
from service.domain.records import Evaluation, Job, Unit, Worker, new_job_id
from service.domain.status import EvaluationState, JobStatus, UnitKind, UnitState
from tests.service.api_server import Api, running_api
from tests.worker import rows
from tests.worker.world import World

NewJob = Callable[..., Job]


def recorded(path: Path) -> dict[str, Any]:
    """A file as POST /search writes it down."""
    facts = path.stat()
    return {
        "path": str(path),
        "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        "inode": facts.st_ino,
    }


@pytest.fixture(scope="module")
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on the module's database."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def empty_tables(request: pytest.FixtureRequest) -> None:
    """Every test that uses the database starts with an empty one."""
    if "engine" in request.fixturenames:
        engine = request.getfixturevalue("engine")
        tables = "jobs, units, evaluations, receipts, latency_maps, workers, evaluation_cache"
        with engine.begin() as connection:
            connection.execute(text(f"TRUNCATE {tables} CASCADE"))


@pytest.fixture
def new_job(engine: Engine) -> NewJob:
    """Submits a job as POST /search does: its row and its first unit in one transaction."""

    def submit(
        device: str | None = None,
        checkpoint: str | Path = "builtin:digits",
        dry_run: bool = False,
        owner: str = "me",
        **changes: Any,
    ) -> Job:
        with session_scope(engine) as session:
            job = JobRepository(session).add(
                job_id=new_job_id(),
                owner=owner,
                request=rows.request(checkpoint=str(checkpoint), **changes),
                checkpoint_file=recorded(checkpoint) if isinstance(checkpoint, Path) else None,
                dataset_file=None,
                device=device,
                metadata={},
                dry_run=dry_run,
            )
            UnitRepository(session).add(job.id, UnitKind.INSPECT, {}, device=device)
        return job

    return submit


class WorkerProcess:
    """A worker as a process of its own, with its log in a file."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal; its device process gets none."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        """Return once its log says so."""
        wait_until(lambda: text in self.text, seconds, f"{text!r} in:\n{self.text}")


def wait_until(ready: Callable[[], bool], seconds: float = 20.0, what: str = "") -> None:
    """Return once `ready()`, and fail where that takes too long."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def environment_of_worker(database_url: str, redis_url: str, artefacts: Path) -> dict[str, str]:
    """Short leases, one thread, and this checkout's packages; a disturbed measurement is the last."""
    return os.environ | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ARTIFACT_ROOT": str(artefacts),
        "LEASE_SECONDS": "3",
        "HEARTBEAT_SECONDS": "1",
        "SWEEP_SECONDS": "1",
        "MEASURE_AGAIN_SECONDS": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def process_of_worker(
    name: str, options: tuple[str, ...], fake: bool, environment: dict[str, str], folder: Path
) -> WorkerProcess:
    script = str(Path(__file__).with_name("fake_worker.py"))
    command = [script, name, *options] if fake else ["-m", "worker", "--name", name, *options]
    return WorkerProcess([sys.executable, *command], environment, folder / f"{name}.log")


@contextmanager
def worker_of_module(environment: dict[str, str], folder: Path) -> Iterator[WorkerProcess]:
    """A worker that is ready, and ends in order when it is told to."""
    worker = process_of_worker("real", (), True, environment, folder)
    try:
        worker.wait_for("is ready", 60)
        yield worker
        worker.signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0
    finally:
        worker.kill()
        print(worker.text)  # shown where a test failed


@pytest.fixture
def worker_environment(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    return environment_of_worker(database_url, redis_url, tmp_path / "artefacts")


@pytest.fixture
def start_worker(
    engine: Engine, worker_environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers; the test ends them all. `fake` ones have a made-up device."""
    workers: list[WorkerProcess] = []

    def start(name: str, *options: str, fake: bool = True, **environment: str) -> WorkerProcess:
        settings = worker_environment | environment
        worker = process_of_worker(name, options, fake, settings, tmp_path)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.kill()
        print(f"--- {worker.log.name}\n{worker.text}")  # shown where the test failed


class Database:
    """What the tests look at."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def job(self, job: Job) -> Job:
        with session_scope(self.engine) as session:
            found = JobRepository(session).get(job.id)
        assert found is not None
        return found

    def units(self, job: Job) -> list[Unit]:
        with session_scope(self.engine) as session:
            return UnitRepository(session).for_job(job.id)

    def evaluations(self, job: Job) -> list[Evaluation]:
        with session_scope(self.engine) as session:
            return EvaluationRepository(session).for_job(job.id)

    def workers(self) -> dict[str, Worker]:
        with session_scope(self.engine) as session:
            return {worker.id: worker for worker in WorkerRepository(session).all()}

    def wait_for_end(self, job: Job, seconds: float = 60.0) -> Job:
        wait_until(lambda: self.job(job).status.terminal, seconds, f"the end of {self.job(job)}")
        return self.job(job)

    def wait_for_leased(self, job: Job, kind: str, seconds: float = 30.0) -> list[Unit]:
        def leased() -> list[Unit]:
            return [u for u in self.units(job) if (u.kind, u.state) == (kind, UnitState.LEASED)]

        wait_until(lambda: bool(leased()), seconds, f"a leased {kind}")
        return leased()

    def check_complete(self, job: Job) -> None:
        """Succeeded, with the evaluations of an undisturbed run, each counted once."""
        ended = self.job(job)
        assert ended.status == JobStatus.SUCCEEDED, ended.error
        world = World(request=job.request)
        world.run()
        found = self.evaluations(job)
        assert [row.genes for row in found] == [row.genes for row in world.evaluations]
        assert [row.metric for row in found] == [row.metric for row in world.evaluations]
        assert {row.state for row in found} == {EvaluationState.DONE}
        assert ended.progress["done"] == len(found)
        assert ended.result == world.job.result


@pytest.fixture
def database(engine: Engine) -> Database:
    return Database(engine)


@pytest.fixture(scope="module")
def api(
    database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("api")) as api:
        yield api


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(api.url, api.key) as client:
        yield client


@pytest.fixture(scope="module")
def module_trainer(
    request: pytest.FixtureRequest,
    api: Api,
    database_url: str,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WorkerProcess]:
    """One worker for the API's jobs of a test module, with training slices of a second. Its clock is
    the CPU time of a thread: it measures although others keep the machine busy. It does so for as
    long as the module's MEASURE_SECONDS, 3 where it has none."""
    environment = environment_of_worker(database_url, redis_url, api.artefacts.root) | {
        "SLICE_SECONDS": "1",
        "TEST_DEVICE": "clocked_device.py",
        "MEASURE_AGAIN_SECONDS": "1,2",
        "FAKE_MEASURE_SECONDS": str(getattr(request.module, "MEASURE_SECONDS", 3)),
    }
    with worker_of_module(environment, tmp_path_factory.mktemp("trainer")) as worker:
        yield worker


@pytest.fixture
def trainer(module_trainer: WorkerProcess) -> Iterator[WorkerProcess]:
    """The module's trainer; no test may end it."""
    before = len(module_trainer.text)
    yield module_trainer
    print(module_trainer.text[before:])  # shown where the test failed
    assert module_trainer.process.poll() is None


def report_metric(config: Path, weights: Path, dataset: Any) -> float:
    """The metric that a user of the downloaded files finds on the report split, with one thread."""
    from sparsevit import load_config, load_model, metrics
    from sparsevit.data.sources import open_splits
    from sparsevit.evaluate import evaluate
    from sparsevit.latency.timers import thread_count

    model, best = load_model(weights), load_config(config)
    model.set_sparsity(best)  # refuses other weights than the config's
    report = open_splits(dataset, model).report
    genes, score = best.sparsity.genes, best.sparsity.score
    with thread_count(1):
        (states,) = evaluate(model, [genes], score, report, range(len(report)))
    return metrics.value(metrics.merge(states, model.metric), model.metric)
