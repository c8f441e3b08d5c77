"""Wake-ups: Celery messages that say where to look, and nothing else.

Postgres is the only truth. A message may be lost, doubled or late: workers sweep the database every
few seconds anyway, so a wake-up only makes things start sooner. That is why sending one never
raises. Send after the commit, or the worker looks before there is anything to see.
"""

from __future__ import annotations

import logging
import re

from celery import Celery
from kombu.exceptions import KombuError

log = logging.getLogger(__name__)

TASK_ADVANCE = "sparsevit.advance"
"""advance(job_id): take the job's next step."""

TASK_RUN_UNITS = "sparsevit.run_units"
"""run_units(): claim and run units until none is left."""

TASK_SWEEP = "sparsevit.sweep"
"""sweep(): take back leases that are over, and advance the jobs that wait for a step."""

CONTROL_QUEUE = "control"
"""Steps and sweeps: short, database only."""

ANY_DEVICE_QUEUE = "units"
"""Units that any device may run."""

SEND_SECONDS = 1.0
"""How long sending may take before Redis counts as away."""

# Kombu's own defaults wait two seconds between attempts, and forever for an answer. A POST must
# not: one attempt and one more at once. (A worker's consumer reconnects by settings of its own.)
_TRANSPORT = {
    "socket_connect_timeout": SEND_SECONDS,
    "socket_timeout": 5 * SEND_SECONDS,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}


def make_celery(redis_url: str) -> Celery:
    """A Celery application on that Redis, for sending and for a worker alike.

    JSON only, no result backend, early acknowledgement: what a lost message meant is in Postgres.
    """
    celery = Celery("sparsevit", broker=redis_url, set_as_current=False)
    celery.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue=CONTROL_QUEUE,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=SEND_SECONDS,
        broker_transport_options=_TRANSPORT,
        enable_utc=True,
    )
    return celery


def units_queue(device: str | None) -> str:
    """The queue that workers of a device model (None: of any) listen to for units."""
    if device is None:
        return ANY_DEVICE_QUEUE
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"{ANY_DEVICE_QUEUE}.{slug}"


def wake_units(celery: Celery, device: str | None) -> bool:
    """Tells a worker of that device model (None: of any) that units are pending."""
    return _send(celery, TASK_RUN_UNITS, [], units_queue(device))


def wake_job(celery: Celery, job_id: str) -> bool:
    """Tells a worker that the job's next step is due."""
    return _send(celery, TASK_ADVANCE, [job_id], CONTROL_QUEUE)


def _send(celery: Celery, task: str, arguments: list[str], queue: str) -> bool:
    """Sends one message; False (and a line in the log) where Redis is away."""
    try:
        celery.send_task(task, args=arguments, queue=queue, retry=False, ignore_result=True)
    except (KombuError, OSError) as error:
        log.warning("Redis is away (%s); the sweep picks the work up", type(error).__name__)
        return False
    return True
