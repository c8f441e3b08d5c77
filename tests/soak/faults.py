"""The faults: each begins with one call, and ends with another one some seconds later.

Several may be under way at once, but one a target: what is away is not stopped as well.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.db.session import session_scope
from service.queue import make_celery, wake_job, wake_units
from tests.soak.stack import LEASE_SECONDS, Program, Stack

PAUSE_SECONDS = (0.3, 3.0)
"""Between the beginnings of two faults."""

WAKE_UPS = 100


@dataclass(frozen=True)
class Fault:
    """target: what is not to be harmed by another one meanwhile. seconds: how long it lasts."""

    name: str
    target: str
    seconds: tuple[float, float]
    begin: Callable[[], None]
    end: Callable[[], None]


def nothing() -> None:
    """Some faults are over as they begin."""


class Faults:
    """Injects faults at random. Called from the main thread, which starts the servers again."""

    def __init__(self, stack: Stack, rng: random.Random) -> None:
        self._stack, self._rng = stack, rng
        self._table = _table(stack)
        self._under_way: list[tuple[float, Fault]] = []
        self.counts: Counter[str] = Counter()
        self.deaths: list[str] = []
        """Programs that ended though nobody made them."""

    def run(self, seconds: float) -> None:
        """Inject for so long, then let all of them end."""
        over = time.monotonic() + seconds
        next_one = time.monotonic()
        while time.monotonic() < over:
            self._end_due()
            self._revive()
            if time.monotonic() >= next_one:
                self._begin_one()
                next_one = time.monotonic() + self._rng.uniform(*PAUSE_SECONDS)
            time.sleep(0.02)
        self.stop()

    def stop(self) -> None:
        """End what is under way."""
        for _, fault in self._under_way:
            fault.end()
        self._under_way.clear()

    def _begin_one(self) -> None:
        busy = {fault.target for _, fault in self._under_way}
        free = [fault for fault in self._table if fault.target not in busy]
        if not free:
            return
        fault = self._rng.choice(free)
        length = self._rng.uniform(*fault.seconds)
        fault.begin()
        self.counts[fault.name] += 1
        self._under_way.append((time.monotonic() + length, fault))

    def _revive(self) -> None:
        busy = {fault.target for _, fault in self._under_way}
        for program in (self._stack.api, *self._stack.workers):
            if program.name not in busy and not program.alive():
                self.deaths.append(f"{program.name} ended by itself; see its log")
                program.start()

    def _end_due(self) -> None:
        due = [entry for entry in self._under_way if entry[0] <= time.monotonic()]
        for entry in due:
            self._under_way.remove(entry)
            entry[1].end()


def _table(stack: Stack) -> list[Fault]:
    found = [
        Fault("kill -9 of the API", "api", (0.0, 1.0), stack.api.kill, stack.api.start),
        Fault("the API stopped for a while", "api", (0.5, 3.0), *_paused(stack.api)),
        *_of_redis(stack),
        *_of_postgres(stack),
        Fault("100 wake-ups at once", "wake", (0.0, 0.1), lambda: wake_all(stack), nothing),
    ]
    for worker in stack.workers:
        found += _of_worker(worker)
    return found


def _of_worker(worker: Program) -> list[Fault]:
    name, beyond = worker.name, (1.2 * LEASE_SECONDS, 2.5 * LEASE_SECONDS)
    return [
        Fault("kill -9 of a worker", name, (0.0, 2.0), worker.kill, worker.start),
        Fault("a worker drained", name, (0.0, 1.0), worker.drain, worker.start),
        Fault("a worker stopped beyond its lease", name, beyond, *_paused(worker)),
        Fault(
            "kill -9 of a device process", name, (0.0, 0.1), lambda: kill_device(worker), nothing
        ),
        Fault(
            "a device process stopped",
            name,
            (0.5, 4.0),
            lambda: signal_device(worker, signal.SIGSTOP),
            lambda: signal_device(worker, signal.SIGCONT),
        ),
    ]


def _of_redis(stack: Stack) -> list[Fault]:
    away = (3 * LEASE_SECONDS, 6 * LEASE_SECONDS)
    server = stack.redis.process
    return [
        Fault("kill -9 of Redis", "redis", (0.0, 0.5), server.kill, server.start),
        Fault("Redis away for leases", "redis", away, server.stop, server.start),
        Fault("FLUSHALL", "redis", (0.0, 0.1), lambda: flush(stack), nothing),
    ]


def _of_postgres(stack: Stack) -> list[Fault]:
    server = stack.postgres.process

    def start() -> None:
        server.start()
        server.wait_ready(lambda: accepts(stack), 60)

    return [
        Fault(
            "Postgres stopped at once", "postgres", (0.0, 4.0), lambda: quit_at_once(stack), start
        ),
        Fault("Postgres restarted", "postgres", (0.0, 0.5), server.stop, start),
    ]


def _paused(program: Program) -> tuple[Callable[[], None], Callable[[], None]]:
    return (
        lambda: program.signal(signal.SIGSTOP),
        lambda: program.signal(signal.SIGCONT),
    )


def quit_at_once(stack: Stack) -> None:
    """Postgres' immediate stop: nothing is written down, its log is replayed at the next start."""
    process = psutil.Process(stack.postgres.process.pid)
    os.kill(process.pid, signal.SIGQUIT)
    psutil.wait_procs([process], 15)


def accepts(stack: Stack) -> bool:
    """Whether Postgres answers."""
    try:
        with session_scope(stack.engine) as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True


def signal_device(worker: Program, number: signal.Signals) -> None:
    """A signal for the worker's device process, if it has one."""
    for child in worker.children():
        with suppress(psutil.NoSuchProcess):
            child.send_signal(number)


def kill_device(worker: Program) -> None:
    signal_device(worker, signal.SIGKILL)


def flush(stack: Stack) -> None:
    """All of Redis forgotten."""
    with suppress(RedisError), Redis.from_url(stack.redis_url, socket_timeout=2) as client:
        client.flushall()


def wake_all(stack: Stack) -> None:
    """The same wake-ups over and over, for every job that is there."""
    with suppress(SQLAlchemyError), session_scope(stack.engine) as session:
        jobs = list(session.scalars(text("SELECT id FROM jobs ORDER BY created_at DESC LIMIT 5")))
        celery = make_celery(stack.redis_url)
        for i in range(WAKE_UPS // 2):
            if jobs and not wake_job(celery, jobs[i % len(jobs)]):
                break
            if not wake_units(celery, "Testium 3000"):
                break
        celery.close()
