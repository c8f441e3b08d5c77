"""The slot of one device: a thread that claims units from Postgres and runs them, one at a time.

    wait for a wake-up (or the next sweep) -> hold the device -> claim -> run -> hand in -> again

Postgres says what there is to do; a wake-up only says that looking is worth it, so none is needed
and none does harm. The device's lock is held before the claim, shared; a unit that times
something trades it for the exclusive one before it runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy.exc import InterfaceError, OperationalError

from service.domain.logs import about
from service.domain.records import Unit
from service.domain.status import MAX_ATTEMPTS, QUIET_KINDS, TRAINING_KINDS, UnitKind
from sparsevit.errors import DeviceBusy
from sparsevit.latency.quiet import DeviceLock
from worker.leases import Leases
from worker.protocol import DEVICE_PROCESS_DIED
from worker.requests import unit_fields
from worker.supervisor import (
    DeviceProcess,
    DeviceUnavailable,
    Failed,
    Finished,
    Interrupted,
    Outcome,
)

logger = logging.getLogger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError)
LOOK_SECONDS = 0.5
"""How often a running unit looks up from its work; heartbeats are due less often."""

DRAIN_SECONDS = 5.0
"""A worker told to stop gives its unit so long to end before it gives the unit back."""

SLICE_DRAIN_SECONDS = 12.0
"""And a training so long to write a checkpoint: what it trained would be lost otherwise."""


class DeviceSlot:
    """Runs the units of one device until it is stopped.

    opened: called with the device's facts once it is open, before any claim, and again after the
    device process had to be started anew. ended: called with the id of the job whose unit ended.
    """

    def __init__(
        self,
        process: DeviceProcess,
        leases: Leases,
        quiet_root: Path,
        heartbeat_seconds: float,
        poll_seconds: float,
        opened: Callable[[dict], None],
        ended: Callable[[str], None],
    ) -> None:
        self._process = process
        self._leases = leases
        self._quiet_root = quiet_root
        self._heartbeat_seconds = heartbeat_seconds
        self._poll_seconds = poll_seconds
        self._opened, self._ended = opened, ended
        self._wake = threading.Event()
        self.stopped_at: float | None = None
        self._known_pid: int | None = None
        self._deaths = 0
        self.unit_id: int | None = None
        """The unit it works on now."""

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more; the running unit ends soon or is given back."""
        self.stopped_at = time.monotonic()
        self._wake.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self.stopped_at is not None

    def run(self) -> None:
        """Work until stopped. Raises DeviceUnavailable where the device never opened: it refused, or
        its process died as often as a unit may."""
        self._process.start()
        while not self.stopping:
            self._wake.clear()
            if not self._turn_safely():
                self._wake.wait(self._poll_seconds)
        self._process.stop()

    def _turn_safely(self) -> bool:
        try:
            return self._turn()
        except DeviceUnavailable as refusal:
            died = refusal.error["code"] == DEVICE_PROCESS_DIED
            self._deaths += died
            if self._known_pid is None and not (died and self._deaths < MAX_ATTEMPTS):
                raise
            logger.exception("the device does not open; trying on")
        except DATABASE_AWAY as error:
            logger.warning("the database is away: %s", error.orig)
        except Exception:
            logger.exception("a unit could not be handled; its lease will run out")
        return False

    def _turn(self) -> bool:
        """One unit, if there is one: True if there may be more."""
        facts = self._process.hello(lambda: "stop" if self.stopping else None)
        if facts is None:
            return False
        if facts["pid"] != self._known_pid:
            self._opened(facts)
            self._known_pid = facts["pid"]
        device = facts["device"]
        lock = DeviceLock(self._quiet_root, device["uuid"])
        with ExitStack() as held:
            try:
                held.enter_context(lock.shared(timeout=0))
            except DeviceBusy:  # another process measures on this device
                return False
            unit = self._leases.claim(device["model"], device["uuid"])
            if unit is None:
                return False
            with about(**unit_fields(unit)):
                self._do(unit, held, lock)
        self._ended(unit.job_id)
        return True

    def _do(self, unit: Unit, held: ExitStack, lock: DeviceLock) -> None:
        """A claimed unit, from here to its outcome."""
        self.unit_id = unit.id
        try:
            watch = _Watch(self, unit, self._leases, self._heartbeat_seconds, self._process)
            outcome = self._hold_alone(held, lock, unit, watch) or self._compute(unit, watch)
            self._hand_in(unit, outcome)
        finally:
            self._leases.leave(unit)
            self.unit_id = None

    def _hold_alone(
        self, held: ExitStack, lock: DeviceLock, unit: Unit, watch: _Watch
    ) -> Interrupted | None:
        """For a unit that times something: wait until nobody else is on the device."""
        if unit.kind not in QUIET_KINDS:
            return None
        held.close()
        while True:
            try:
                held.enter_context(lock.exclusive(timeout=LOOK_SECONDS))
                return None
            except DeviceBusy:
                if (reason := watch()) is not None:
                    return Interrupted(reason)

    def _compute(self, unit: Unit, watch: _Watch) -> Outcome:
        started = time.monotonic()
        outcome = self._run(unit, self._leases.request(unit), watch)
        logger.info(
            "unit %d (%s, attempt %d) of %s: %s in %.1f s",
            unit.id, unit.kind, unit.attempt, unit.job_id, type(outcome).__name__.lower(),
            time.monotonic() - started,
        )  # fmt: skip
        return outcome

    def _run(self, unit: Unit, request: dict[str, Any], watch: _Watch) -> Outcome:
        """In the device process; of an evaluation, what is not known already."""

        def run(asked: dict[str, Any]) -> Outcome:
            return self._process.run(asked, watch, every=LOOK_SECONDS)

        if unit.kind != UnitKind.EVALUATE:
            return run(request)
        assert self._process.facts is not None, "a device that holds a unit said hello"
        return self._leases.known(unit, request, self._process.facts).run(request, run)

    def _hand_in(self, unit: Unit, outcome: Outcome) -> None:
        """Write the outcome down, waiting for a database that is away; the fence has the say."""
        while True:
            try:
                if not self._write(unit, outcome):
                    logger.warning("unit %d: attempt %d was too late", unit.id, unit.attempt)
                return
            except DATABASE_AWAY as error:
                logger.warning("the database is away: %s", error.orig)
                if self.stopping:
                    return
                time.sleep(1.0)

    def _write(self, unit: Unit, outcome: Outcome) -> bool:
        match outcome:
            case Finished(result, kept):
                return self._leases.finish(unit, result, kept)
            case Failed(error, retry):
                logger.warning("unit %d failed: %s %s", unit.id, error["code"], error["message"])
                return self._leases.fail(unit, error, retry)
            case Interrupted("cancel"):
                return self._leases.cancel(unit)
            case Interrupted("stop"):
                return self._leases.release(unit)
        return False  # the lease was lost


class _Watch:
    """Says when a unit must stop: its lease is lost, its job cancelled, its worker asked to end."""

    def __init__(
        self,
        slot: DeviceSlot,
        unit: Unit,
        leases: Leases,
        heartbeat_seconds: float,
        process: DeviceProcess,
    ) -> None:
        self._slot, self._unit, self._leases = slot, unit, leases
        self._process = process
        self._every = heartbeat_seconds
        self._next = time.monotonic() + heartbeat_seconds
        self._told = False

    def __call__(self) -> str | None:
        if self._slot.stopped_at is not None and self._drained(self._slot.stopped_at):
            return "stop"
        if time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + self._every
        try:
            beat = self._leases.heartbeat(self._unit, self._training())
        except DATABASE_AWAY as error:
            # Nobody can claim the unit while the database is away: work on, and ask again.
            logger.warning("no heartbeat, the database is away: %s", error.orig)
            return None
        return None if beat == "ok" else beat

    def _drained(self, stopped_at: float) -> bool:
        """Whether the unit's time to end is up."""
        patience = DRAIN_SECONDS
        if self._unit.kind in TRAINING_KINDS:
            patience = SLICE_DRAIN_SECONDS
            if not self._told:
                self._told = True
                self._process.end_slice()
        return time.monotonic() - stopped_at > patience

    def _training(self) -> dict[str, Any] | None:
        """How far the slice is that the device process works on."""
        if self._unit.kind not in TRAINING_KINDS or self._process.progress is None:
            return None
        done, total, loss = (self._process.progress.get(n) for n in ("done", "total", "loss"))
        return {"step": done, "steps": total, "loss": loss}
