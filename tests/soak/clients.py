"""Who uses the service meanwhile, through HTTP alone, and what they were answered."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.domain.status import TERMINAL
from tests.soak.stack import Stack

OPEN_JOBS = 6
CANCEL_SHARE = 0.02
"""Of the open jobs, in a second."""

TRAIN_SHARE = 0.3
LOOK_SECONDS = 0.2


@dataclass
class Record:
    """What a client was told of one job: (version, status) whenever it looked."""

    job_id: str
    key: str
    cancelled: bool = False
    seen: list[tuple[int, str]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return bool(self.seen) and self.seen[-1][1] in TERMINAL


class Clients:
    """Keeps some jobs open, looks at them, cancels a few."""

    def __init__(self, stack: Stack, rng: random.Random) -> None:
        self._url, self._key, self._rng = stack.url, stack.key, rng
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._until_stopped, args=(work,), daemon=True)
            for work in (self._submit_one, self._look)
        ]
        self.records: list[Record] = []
        self.keys: set[str] = set()
        self.unexpected: list[str] = []
        self.away = 0

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Submit nothing more; whoever waits for an answer gets it first."""
        self._stopping = True
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a client is never answered"

    def _until_stopped(self, work: Callable[[httpx.Client], None]) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=10) as client:
            while not self._stopping:
                try:
                    work(client)
                except Exception as error:
                    self.unexpected.append(repr(error))
                time.sleep(LOOK_SECONDS)

    def _submit_one(self, client: httpx.Client) -> None:
        if sum(not record.over for record in self.records) >= OPEN_JOBS:
            return
        key, body = str(uuid.uuid4()), self._body()
        self.keys.add(key)
        while True:
            # The same key until it is answered: the first POST may have been stored.
            answer = self._ask(client, "POST", "/search", json=body, key=key)
            if answer is not None and answer.status_code == 202:
                self.records.append(Record(answer.json()["id"], key))
            if answer is not None and answer.status_code not in (409, 503):
                return
            time.sleep(0.1)

    def _body(self) -> dict[str, Any]:
        search = {
            "population": 6,
            "parents": 3,
            "generations": self._rng.randint(1, 4),
            "seed": self._rng.randrange(1000),
            "racing": self._rng.random() < 0.5,
            "reuse": self._rng.random() < 0.5,
        }
        trainings = {name: {"steps": 5} for name in ("adapt", "finetune")}
        return {
            "checkpoint": "builtin:digits",
            "dataset": "builtin:digits",
            "latency_budget": self._rng.choice(["50%", "60%", "75%"]),
            "search": search,
            **(trainings if self._rng.random() < TRAIN_SHARE else {}),
        }

    def _look(self, client: httpx.Client) -> None:
        for record in [one for one in self.records if not one.over]:
            answer = self._ask(client, "GET", f"/jobs/{record.job_id}")
            if answer is None or answer.status_code != 200:
                continue
            job = answer.json()
            record.seen.append((job["version"], job["status"]))
            if self._rng.random() < CANCEL_SHARE * LOOK_SECONDS:
                self._cancel(client, record)

    def _cancel(self, client: httpx.Client, record: Record) -> None:
        answer = self._ask(client, "POST", f"/jobs/{record.job_id}/cancel")
        if answer is not None and answer.status_code in (200, 202):
            record.cancelled = True

    def _ask(
        self, client: httpx.Client, method: str, path: str, key: str | None = None, **more: Any
    ) -> httpx.Response | None:
        """The answer; None where there was none. While a part is away it may be 503, never 500."""
        headers = {"Idempotency-Key": key} if key else {}
        try:
            answer = client.request(method, path, headers=headers, **more)
        except httpx.TransportError:
            self.away += 1
            return None
        if answer.status_code == 503:
            self.away += 1
        elif answer.status_code not in (200, 202, 409):
            self.unexpected.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer
