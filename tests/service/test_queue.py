"""Wake-ups: what is sent, and that none is ever in the way."""

from __future__ import annotations

import json
import time

import pytest
from redis import Redis

from service.queue import (
    CONTROL_QUEUE,
    TASK_ADVANCE,
    TASK_RUN_UNITS,
    make_celery,
    units_queue,
    wake_job,
    wake_units,
)


def sent(redis_url: str, queue: str) -> tuple[str, list[str]]:
    with Redis.from_url(redis_url) as redis:
        message = redis.rpop(queue)
    assert isinstance(message, bytes)
    headers = json.loads(message)["headers"]
    return headers["task"], headers["argsrepr"]


def test_a_message_carries_an_id_and_nothing_else(redis_url: str) -> None:
    celery = make_celery(redis_url)
    assert wake_job(celery, "job_1")
    assert wake_units(celery, "Testium 3000 (R)")
    assert wake_units(celery, None)
    celery.close()
    assert sent(redis_url, CONTROL_QUEUE) == (TASK_ADVANCE, "['job_1']")
    assert sent(redis_url, "units.testium-3000-r") == (TASK_RUN_UNITS, "()")
    assert sent(redis_url, units_queue(None)) == (TASK_RUN_UNITS, "()")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379"])
def test_without_redis_sending_says_so_at_once(address: str) -> None:
    celery = make_celery(f"redis://{address}/0")
    started = time.monotonic()
    assert not wake_job(celery, "job_1")
    assert time.monotonic() - started < 3
