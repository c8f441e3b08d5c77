"""Events on their way from Postgres to those who watch: one poller a process, fanned out in memory."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service.db.events import EventRepository
from service.db.session import session_scope
from service.domain.errors import TooManyStreams
from service.domain.events import JobEvent

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
AWAY_SECONDS = 1.0
"""Between two tries while the database is away."""

Queue = asyncio.Queue[JobEvent]


class EventHub:
    """The listeners of one process, so many of an owner at most. It polls only while there are any;
    for one event loop."""

    def __init__(self, engine: Engine, most_of_owner: int) -> None:
        self._engine = engine
        self._most_of_owner = most_of_owner
        self._of_owner: Counter[str] = Counter()
        self._queues: dict[str, set[Queue]] = {}
        self._seen: dict[str, int] = {}
        self._poller: asyncio.Task[None] | None = None
        # Of its own: requests that wait for a slow database hold all the other threads.
        self._thread = CapacityLimiter(1)

    @property
    def listeners(self) -> int:
        """How many there are now."""
        return sum(len(queues) for queues in self._queues.values())

    def check_room(self, owner: str) -> None:
        """Called before an answer begins: a stream that is refused later has no status to say so.
        Requests that ask at the same moment may all be let in.

        Raises:
            TooManyStreams: the owner has as many as one may have.
        """
        if self._of_owner[owner] >= self._most_of_owner:
            raise TooManyStreams(
                f"{self._most_of_owner} of your event streams are open, which is the limit "
                "(OPEN_STREAMS): close one, or poll GET /jobs/{id}"
            )

    @asynccontextmanager
    async def listen(self, owner: str, job_id: str, seen: int) -> AsyncIterator[Queue]:
        """A queue of the job's events that follow the one of id `seen`, in order.

        It may hold events up to `seen` as well: the listener passes over these. The queue has no
        bound, but a job has few events, and all its listeners share them.
        """
        queue: Queue = asyncio.Queue()
        self._queues.setdefault(job_id, set()).add(queue)
        self._seen[job_id] = min(seen, self._seen.get(job_id, seen))
        self._of_owner[owner] += 1
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            yield queue
        finally:
            self._of_owner[owner] -= 1
            self._of_owner += Counter()  # forgets who has none
            self._queues[job_id].discard(queue)
            if not self._queues[job_id]:
                del self._queues[job_id], self._seen[job_id]

    async def _poll(self) -> None:
        while self._queues:
            asked = dict(self._seen)
            try:
                found = await run_sync(self._read, asked, limiter=self._thread)
            except SQLAlchemyError as error:
                # Listeners wait: what they miss is in the database when it is back.
                log.warning("no events, the database is away (%s)", type(error).__name__)
                await asyncio.sleep(AWAY_SECONDS)
            except Exception:
                log.exception("events could not be read; trying on")
                await asyncio.sleep(AWAY_SECONDS)
            else:
                self._hand_out(found, asked)
                await asyncio.sleep(POLL_SECONDS)

    def _read(self, asked: Mapping[str, int]) -> list[JobEvent]:
        with session_scope(self._engine) as session:
            return EventRepository(session).of_jobs(asked)

    def _hand_out(self, found: list[JobEvent], asked: Mapping[str, int]) -> None:
        last = {event.job_id: event.id for event in found}
        for job_id, event_id in last.items():
            # Somebody who had seen less may have come meanwhile: then all is read again for them.
            if self._seen.get(job_id) == asked[job_id]:
                self._seen[job_id] = event_id
        for event in found:
            for queue in self._queues.get(event.job_id, ()):
                queue.put_nowait(event)
