"""The service as processes that can be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from sqlalchemy import Engine, text

from service.db.keys import KeyRepository
from service.db.migrate import upgrade
from service.db.session import make_engine, session_scope
from service.embedded.accounts import temporary_home
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.processes import free_port
from service.embedded.redis import EmbeddedRedis

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 3.0
DRAIN_SECONDS = 25.0
WORKER = {
    "LEASE_SECONDS": str(LEASE_SECONDS),
    "HEARTBEAT_SECONDS": "1",
    "SWEEP_SECONDS": "1",
    # The first try of every measurement finds no quiet moment.
    "MEASURE_AGAIN_SECONDS": "0.5,1,2",
    "FAKE_DISTURBED": "1",
    "FAKE_SECONDS": "0.15",
    "FAKE_UUID": "CPU-1",  # of both workers: one device, on which measurements must not overlap
}


class Program:
    """A process of its own session, with its log in a file."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path):
        self.name, self._log = name, log
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs, or is stopped."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; it does not run."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nobody else gets it."""
        assert self._process is not None, f"{self.name} was not started"
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def drain(self) -> None:
        """SIGTERM, and wait until it has ended by itself."""
        assert self._process is not None, f"{self.name} was not started"
        self.signal(signal.SIGTERM)
        self._process.wait(DRAIN_SECONDS)

    def children(self) -> list[psutil.Process]:
        """What it started; of a worker: its device process."""
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []


@dataclass
class Stack:
    """The running service. watch: what its devices noticed; see tests.worker.fake_device."""

    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    api: Program
    workers: list[Program]
    engine: Engine
    url: str
    key: str
    logs: Path
    watch: Path

    @property
    def redis_url(self) -> str:
        return self.redis.url()

    def wait_until_it_serves(self, seconds: float = 60.0) -> None:
        """Return once the API answers and has its database."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError("the API does not serve again")


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """The service, with logs and artefacts below `folder`; ends with everything it started."""
    with ExitStack() as held:
        home = held.enter_context(temporary_home(folder / "servers"))
        # Durable: what Postgres has confirmed must outlive its kill.
        postgres = held.enter_context(EmbeddedPostgres(home / "postgres", durable=True))
        redis = held.enter_context(EmbeddedRedis(home / "redis"))
        upgrade(postgres.url())
        engine = make_engine(postgres.url())
        held.callback(engine.dispose)
        with session_scope(engine) as session:
            session.execute(text("SELECT 1"))
            key = KeyRepository(session).create("ann", "soak")
        stack = _stack(folder, postgres, redis, engine, key)
        for program in (stack.api, *stack.workers):
            held.callback(program.kill)
            program.start()
        stack.wait_until_it_serves()
        yield stack


def _stack(
    folder: Path, postgres: EmbeddedPostgres, redis: EmbeddedRedis, engine: Engine, key: str
) -> Stack:
    logs, watch, port = folder / "logs", folder / "watch", free_port()
    for one in (logs, watch):
        one.mkdir(parents=True)
    shared = os.environ | {
        "DATABASE_URL": postgres.url(),
        "REDIS_URL": redis.url(),
        "SPARSEVIT_HOME": str(folder / "home"),
        "ARTIFACT_ROOT": str(folder / "artefacts"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    served = ["--http", "service.api.protocol:BoundedProtocol"]
    served += ["--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "uvicorn", "--factory", "service.main:create_app", *served]
    api = Program("api", command, shared, logs / "api.log")
    script = str(ROOT / "tests" / "worker" / "fake_worker.py")
    fake = shared | WORKER | {"FAKE_WATCH": str(watch)}
    workers = [
        Program(name, [sys.executable, script, name], fake, logs / f"{name}.log")
        for name in ("one", "two")
    ]
    url = f"http://127.0.0.1:{port}"
    return Stack(postgres, redis, api, workers, engine, url, key, logs, watch)
