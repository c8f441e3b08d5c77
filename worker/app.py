"""The Celery application of a worker: its tasks are wake-ups, and do or start what they name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_shutting_down
from celery.worker import state

from service.queue import (
    ANY_DEVICE_QUEUE,
    CONTROL_QUEUE,
    TASK_ADVANCE,
    TASK_RUN_UNITS,
    TASK_SWEEP,
    units_queue,
)

CONTROL_SLOTS = 4
"""Threads for wake-ups. Units run in the device's slot, so none of these is ever held for long."""


def add_tasks(
    celery: Celery,
    advance: Callable[[str], None],
    run_units: Callable[[], None],
    sweep: Callable[[], None],
) -> None:
    """Give the application its tasks."""
    celery.task(advance, name=TASK_ADVANCE)
    celery.task(run_units, name=TASK_RUN_UNITS)
    celery.task(sweep, name=TASK_SWEEP)


def consume(celery: Celery, worker_id: str, device: str, stopping: Callable[[], None]) -> None:
    """Take wake-ups for a worker of that device model until SIGTERM or Ctrl-C.

    `stopping` is called the moment the signal arrives. Waits for Redis for as long as it is away.
    """

    def on_signal(**_: object) -> None:
        stopping()

    def keep_logging(**_: object) -> None:
        """Celery sets logging up anew unless somebody says that it was done."""

    # A line for every wake-up would bury the lines about units and jobs.
    logging.getLogger("celery").setLevel(logging.WARNING)
    # It warns root of pickled messages; ours are JSON, and name a job at most.
    warnings.simplefilter("ignore", SecurityWarning)
    celery.conf.update(
        worker_redirect_stdouts=False,
        # Nothing of ours is asked of a worker through Redis.
        worker_enable_remote_control=False,
    )
    setup_logging.connect(keep_logging)
    worker_shutting_down.connect(on_signal)
    worker = celery.Worker(
        hostname=f"sparsevit@{worker_id}",
        pool="threads",
        concurrency=CONTROL_SLOTS,
        queues=[CONTROL_QUEUE, ANY_DEVICE_QUEUE, units_queue(device)],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()


def stop_consuming() -> None:
    """End `consume`, or keep it from beginning: Celery looks at this before every wait."""
    state.should_stop = 0
