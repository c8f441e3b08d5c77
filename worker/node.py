"""One worker process, put together: device process, slot, sweep and Celery consumer.

main thread     Celery's consumer: takes wake-ups, hands them on
slot            claims units and has them run in the device process
sweep           every few seconds: leases that ran out, steps that are due, "I am alive"
device process  a child that imports torch and owns the device (worker.device)
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import threading
from collections import Counter
from typing import Any

from service.db.artefacts import ArtefactStore
from service.db.evaluation_cache import EvaluationCacheRepository
from service.db.session import make_engine, session_scope
from service.db.workers import WorkerRepository
from service.domain.logs import about
from service.queue import make_celery, wake_job, wake_units
from service.settings import Settings
from worker import tasks
from worker.app import add_tasks, consume, stop_consuming
from worker.leases import Leases
from worker.slot import DATABASE_AWAY, SLICE_DRAIN_SECONDS, DeviceSlot
from worker.step_memory import StepMemory
from worker.supervisor import DeviceProcess, DeviceUnavailable
from worker.sweep import Sweep

logger = logging.getLogger(__name__)

MOST_WAKE_UPS = 8
"""Wake-ups for the units of one step; each worker that wakes takes all it can get."""

SEEN_SECONDS = 10.0
"""A worker shows that it lives at least this often, however rarely it sweeps."""


def default_name(device: str) -> str:
    """A worker's name where none is given: one per process."""
    return f"{socket.gethostname()}-{device.replace(':', '')}-{os.getpid()}"


class Node:
    """A worker, known by `name`, for the device that `process` owns."""

    def __init__(self, settings: Settings, process: DeviceProcess, name: str) -> None:
        self._name = name
        self._engine = make_engine(settings.database_url)
        self._celery = make_celery(settings.redis_url)
        self._store = ArtefactStore(settings.artifact_root.resolve())
        self._memory = StepMemory()
        leases = Leases(
            self._engine,
            name,
            settings.lease_seconds,
            self._store.root,
            settings.slice_seconds,
            settings.measure_again_seconds,
        )
        self._process = process
        self._slot = DeviceSlot(
            self._process,
            leases,
            settings.quiet_root,
            settings.heartbeat_seconds,
            settings.sweep_seconds,
            opened=self._register,
            ended=self._unit_ended,
        )
        self._sweep = Sweep(
            self._engine,
            min(settings.sweep_seconds, SEEN_SECONDS),
            name,
            unit_id=lambda: self._slot.unit_id,
            advance=self._advance,
            wake=self._slot.wake,
            prune=self._prune,
        )
        self._cache_days = settings.evaluation_cache_days
        self._cache_mb = settings.evaluation_cache_mb
        add_tasks(self._celery, self._sweep.advance, self._slot.wake, self._sweep.nudge)
        self._device_model: str | None = None
        self._settled = threading.Event()
        self._refusal: DeviceUnavailable | None = None

    def run(self) -> None:
        """Work until SIGTERM or Ctrl-C. Raises DeviceUnavailable where the device never opens."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        slot = threading.Thread(target=self._run_slot, name="slot", daemon=True)
        sweep = threading.Thread(target=self._sweep.run, name="sweep", daemon=True)
        slot.start()
        sweep.start()
        try:
            self._settled.wait()
            if self._device_model is not None:
                consume(self._celery, self._name, self._device_model, self._stop)
        finally:
            self._stop()
            slot.join(SLICE_DRAIN_SECONDS + SEEN_SECONDS)
            self._process.kill()
            sweep.join(SEEN_SECONDS)
            self._say_goodbye()
        if self._refusal is not None:
            raise self._refusal

    def _run_slot(self) -> None:
        try:
            self._slot.run()
        except DeviceUnavailable as refusal:
            self._refusal = refusal
        finally:
            self._settled.set()

    def _stop(self) -> None:
        stop_consuming()
        self._slot.stop()
        self._sweep.stop()
        self._settled.set()

    def _register(self, facts: dict[str, Any]) -> None:
        device = facts["device"]
        # A driver is a version too: latencies depend on it.
        versions = {**facts["versions"], "driver": device["driver"]}
        with session_scope(self._engine) as session:
            WorkerRepository(session).register(
                self._name,
                device["model"],
                device["uuid"],
                device["kind"],
                platform.node(),
                versions,
            )
        self._device_model = device["model"]
        self._settled.set()
        logger.info("worker %s is ready on %s", self._name, device["model"])

    def _unit_ended(self, job_id: str) -> None:
        if not wake_job(self._celery, job_id):
            self._sweep.nudge()

    def _advance(self, job_id: str) -> None:
        with about(job=job_id):
            added = tasks.advance(self._engine, self._store, job_id, self._memory)
        for device, count in Counter(added).items():
            self._slot.wake()
            for _ in range(min(count, MOST_WAKE_UPS)):
                if not wake_units(self._celery, device):
                    break

    def _prune(self) -> None:
        with session_scope(self._engine) as session:
            removed = EvaluationCacheRepository(session).prune(self._cache_days, self._cache_mb)
        if removed:
            logger.info("%d cached evaluations were too old or too many", removed)

    def _say_goodbye(self) -> None:
        try:
            with session_scope(self._engine) as session:
                WorkerRepository(session).stopped(self._name)
        except DATABASE_AWAY as error:
            logger.warning("no goodbye, the database is away: %s", error.orig)
        self._engine.dispose()
        self._celery.close()
