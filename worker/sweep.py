"""The sweep: every worker looks through Postgres every few seconds, so that no message is needed.

It takes back leases that ran out, takes the steps that are due, shows that the worker lives, and
wakes the device's slot: jobs go on while Redis is away, only a little slower. Once an hour it lets
old entries go.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine

from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.db.workers import WorkerRepository
from worker.slot import DATABASE_AWAY

logger = logging.getLogger(__name__)

PRUNE_SECONDS = 3600.0


class Sweep:
    """Sweeps every `seconds`, and at once when nudged, until stopped. prune: lets old entries go."""

    def __init__(
        self,
        engine: Engine,
        seconds: float,
        worker_id: str,
        unit_id: Callable[[], int | None],
        advance: Callable[[str], None],
        wake: Callable[[], None],
        prune: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._seconds = seconds
        self._worker_id, self._unit_id = worker_id, unit_id
        self._take_steps, self._wake, self._prune = advance, wake, prune
        self._next_prune = 0.0
        self._nudged = threading.Event()
        self._stopped = False

    def nudge(self) -> None:
        """Sweep now."""
        self._nudged.set()

    def stop(self) -> None:
        """Sweep no more."""
        self._stopped = True
        self._nudged.set()

    def run(self) -> None:
        """Sweep until stopped."""
        while not self._stopped:
            self._nudged.clear()
            try:
                self.once()
            except DATABASE_AWAY as error:
                logger.warning("no sweep, the database is away: %s", error.orig)
            except Exception:
                logger.exception("the sweep failed; trying on")
            self._nudged.wait(self._seconds)

    def once(self) -> None:
        """One sweep. The slot is woken whatever becomes of the steps."""
        try:
            for job_id in self._due():
                self.advance(job_id)
        finally:
            self._wake()
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + PRUNE_SECONDS
            self._prune()

    def _due(self) -> list[str]:
        """Show that the worker lives, take leases back; the jobs that may take a step."""
        with session_scope(self._engine) as session:
            WorkerRepository(session).seen(self._worker_id, self._unit_id())
        with session_scope(self._engine) as session:
            touched = UnitRepository(session).expire()
        if touched:
            logger.warning("leases ran out in %s", ", ".join(touched))
        with session_scope(self._engine) as session:
            due = JobRepository(session).due_for_step()
        return list(dict.fromkeys([*touched, *due]))

    def advance(self, job_id: str) -> None:
        """Take a job's steps; what is wrong with it must not stop the others, nor does a database
        that is away: the next sweep takes them."""
        try:
            self._take_steps(job_id)
        except DATABASE_AWAY as error:
            logger.warning("no step for %s, the database is away: %s", job_id, error.orig)
        except Exception:
            logger.exception("the steps of %s failed; trying on", job_id)
