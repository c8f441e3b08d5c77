"""Everything on one machine, as plain child processes: up in order, down in the reverse order."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from sqlalchemy import Engine, func, select

from service.db.keys import KeyRepository
from service.db.migrate import upgrade
from service.db.session import make_engine, session_scope
from service.db.workers import WorkerRepository
from service.embedded.accounts import ServerAccount, folder_lock, make_folder
from service.embedded.errors import EmbeddedError
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.processes import ChildProcess, require_free, start_on_free_port
from service.embedded.redis import EmbeddedRedis
from service.embedded.signals import undisturbed
from service.home import Addresses, key_file, read_key, write_private

OWNER = "local"
API = ["uvicorn", "--factory", "service.main:create_app", "--no-access-log"]
API += ["--http", "service.api.protocol:BoundedProtocol"]
API += ["--host", "127.0.0.1", "--timeout-graceful-shutdown", "5"]
API_SECONDS = 60.0
RESTARTS = 8  # so often in so many seconds; a Postgres that was killed may need a few tries
RESTART_WINDOW = 120.0
WORKER_SECONDS = 180.0  # a first import of torch from a cold disk takes tens of seconds


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """How a stack runs. `port` 0 takes a free one; `durable` False is for data thrown away."""

    home: Path
    port: int = 0
    devices: tuple[str, ...] = ("cpu",)
    data_roots: tuple[Path, ...] = ()
    durable: bool = True


class Stack:
    """Postgres, Redis, migrations, an API key, the API, and a worker per device.

    DATABASE_URL and REDIS_URL of the environment win over embedded servers. Use it as a context
    manager, from the main thread: whatever had been started is stopped on every way out.
    """

    def __init__(self, options: StackOptions, report: Callable[[str], None]) -> None:
        self._options = options
        self._report = report
        self._started = ExitStack()
        self._children: list[ChildProcess] = []
        self._ends: dict[str, list[float]] = {}
        self._addresses: Addresses | None = None
        self.key = ""

    @property
    def addresses(self) -> Addresses:
        """Where the running stack is reached."""
        if self._addresses is None:
            raise EmbeddedError("the stack is not running")
        return self._addresses

    def start(self) -> Stack:
        """Start everything; returns when the API is ready and every worker has reported itself.

        Raises:
            EmbeddedError: with the end of the log of the part that did not start.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop API, workers, Redis and Postgres, in this order; safe to call twice."""
        with undisturbed():
            self._children.clear()
            self._started.close()

    def mend(self) -> None:
        """Start again whatever has ended by itself; call it often, from the main thread.

        Nothing is lost meanwhile: what ran is in Postgres, which recovers what it was told.

        Raises:
            EmbeddedError: with the end of its log, where a process keeps ending.
        """
        for child in self._children:
            if child.alive():
                continue
            now = time.monotonic()
            ends = [end for end in self._ends.get(child.name, []) if now - end < RESTART_WINDOW]
            if len(ends) >= RESTARTS:
                raise child.failure("keeps stopping")
            self._ends[child.name] = [*ends, now]
            self._report(f"{child.name} has stopped; starting it again")
            child.start()

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _home(self) -> Path:
        return self._options.home

    def _start(self) -> None:
        if not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
            ServerAccount.current().require_reach(self._home)
        make_folder(self._home)
        self._started.enter_context(folder_lock(make_folder(self._home / "run")))
        make_folder(self._home / "logs")
        self._report("starting Postgres and Redis")
        database_url, redis_url = self._database_url(), self._redis_url()
        self._report("preparing the database")
        upgrade(database_url)
        engine = make_engine(database_url, pool_size=1)
        self._started.callback(engine.dispose)
        self.key = _key(engine, self._home)
        environment = self._environment(database_url, redis_url)
        self._report("starting the API and the worker")
        began = _now(engine)
        workers = self._start_workers(environment)
        url = self._start_api(environment)
        for number, child in enumerate(workers, start=1):
            child.wait_ready(lambda wanted=number: _online(engine, began, wanted), WORKER_SECONDS)
        self._addresses = Addresses(url=url, database_url=database_url, redis_url=redis_url)
        self._addresses.write(self._home)
        self._started.callback(Addresses.forget, self._home)

    def _database_url(self) -> str:
        given = os.environ.get("DATABASE_URL")
        if given:
            return given
        server = EmbeddedPostgres(
            self._home / "postgres",
            log=self._home / "logs" / "postgres.log",
            durable=self._options.durable,
        )
        self._started.enter_context(server)
        self._children.append(server.process)
        return server.url()

    def _redis_url(self) -> str:
        given = os.environ.get("REDIS_URL")
        if given:
            return given
        server = EmbeddedRedis(self._home / "redis", log=self._home / "logs" / "redis.log")
        self._started.enter_context(server)
        self._children.append(server.process)
        return server.url()

    def _environment(self, database_url: str, redis_url: str) -> dict[str, str]:
        own = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SPARSEVIT_HOME": str(self._home),
            "PYTHONUNBUFFERED": "1",
        }
        if self._options.data_roots:
            own["DATA_ROOTS"] = ":".join(str(root) for root in self._options.data_roots)
        return {**os.environ, **own}

    def _child(self, name: str, arguments: list[str], environment: dict[str, str]) -> ChildProcess:
        label = name.replace(":", "-")
        child = ChildProcess(
            name=f"the {name}",
            argv=[sys.executable, "-m", *arguments],
            log=self._home / "logs" / f"{label}.log",
            pid_file=self._home / "run" / f"{label}.pid",
            environment=environment,
            stop_signal=signal.SIGTERM,
            # Nothing is lost: Postgres is the truth, and a lease that is not kept runs out.
            death_signal=signal.SIGKILL,
            patience=20.0,
        )
        self._started.callback(child.stop)
        child.start()
        return child

    def _start_api(self, environment: dict[str, str]) -> str:
        def start(port: int) -> None:
            child = self._child("api", [*API, "--port", str(port)], environment)
            child.wait_ready(lambda: _ready(port), API_SECONDS)
            self._children.append(child)

        if self._options.port:
            require_free(self._options.port)
            start(self._options.port)
            return f"http://127.0.0.1:{self._options.port}"
        return f"http://127.0.0.1:{start_on_free_port(start)}"

    def _start_workers(self, environment: dict[str, str]) -> list[ChildProcess]:
        workers = [
            self._child(f"worker-{device}", ["worker", "--device", device], environment)
            for device in self._options.devices
        ]
        self._children += workers
        return workers


def _key(engine: Engine, home: Path) -> str:
    """The key in `home`, or a new one where there is none that this database knows."""
    key = read_key(home)
    with session_scope(engine) as session:
        keys = KeyRepository(session)
        if key is None or keys.owner_of(key) is None:
            key = keys.create(OWNER, "sparsevit up")
            write_private(key_file(home), key + "\n")
    return key


def _ready(port: int) -> bool:
    # Not urllib: that would ask a proxy of the environment for our own loopback address.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _now(engine: Engine) -> datetime:
    """The database's time: the only clock whose times are compared with its own."""
    with session_scope(engine) as session:
        moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def _online(engine: Engine, since: datetime, wanted: int) -> bool:
    """Whether that many workers have started since then; asked twice a second."""
    time.sleep(0.5)
    with session_scope(engine) as session:
        workers = WorkerRepository(session).all(online_only=True)
    return sum(worker.started_at >= since for worker in workers) >= wanted
