"""The limit on an owner's event streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.client import Client
from tests.service.api_server import SMALL, running_api
from tests.service.test_body import check_problem


@contextmanager
def listening(client: httpx.Client, path: str) -> Iterator[httpx.Response]:
    """A stream that is open: its first event has come, or it was refused."""
    with client.stream("GET", path, timeout=30) as answer:
        if answer.status_code == 200:
            lines = answer.iter_lines()
            while not next(lines).startswith("data:"):
                pass
        else:
            answer.read()
        yield answer


def test_an_owner_has_so_many_streams_open_and_no_more(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with running_api(database_url, redis_url, tmp_path, open_streams=2) as api:
        mine, theirs = (one.post("/search", json=SMALL).json()["id"] for one in (api.ann, api.bob))
        path = f"/jobs/{mine}/events"
        with listening(api.ann, path) as one, listening(api.ann, path) as two:
            assert (one.status_code, two.status_code) == (200, 200)
            with listening(api.ann, path) as third:
                check_problem(third, 429, "TOO_MANY_STREAMS")
                assert int(third.headers["retry-after"]) > 0
            with listening(api.bob, f"/jobs/{theirs}/events") as others:
                assert others.status_code == 200, "others have their own"
            with Client(api.url, api.key) as client:
                assert next(client.watch(mine))["id"] == mine, "who may not listen polls"
        deadline = time.monotonic() + 20
        while True:  # the end of a stream is noticed a moment later
            with listening(api.ann, path) as again:
                if again.status_code == 200:
                    break
            assert time.monotonic() < deadline, "a stream that was closed makes room"
            time.sleep(0.1)
