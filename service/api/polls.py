"""Polled jobs on their way from Postgres to those who ask: one look-up at a time, for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy import Engine

from service.db.polls import Poll, Polled, look_up
from service.db.session import read

AT_ONCE = 64
"""Polls one statement answers, at most: it bounds the memory their rows take."""

Asked = tuple[Poll, asyncio.Future[Polled]]


class PollHub:
    """The polls of one process; for one event loop.

    Those that come in while a statement runs share the next one: the more there are, the less each
    of them costs. An answer is never older than its question.
    """

    def __init__(self, reader: Engine) -> None:
        self._reader = reader
        self._asked: list[Asked] = []
        self._looking: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)

    async def ask(self, poll: Poll) -> Polled:
        """The answer to a poll, read after it was asked."""
        answer: asyncio.Future[Polled] = asyncio.get_running_loop().create_future()
        self._asked.append((poll, answer))
        if self._looking is None or self._looking.done():
            # Of no request: what is logged there is about many.
            self._looking = asyncio.create_task(self._look_up(), context=Context())
        return await answer

    async def _look_up(self) -> None:
        while self._asked:
            asked, self._asked = self._asked[:AT_ONCE], self._asked[AT_ONCE:]
            await self._answer(asked)

    async def _answer(self, asked: Sequence[Asked]) -> None:
        polls = [poll for poll, _ in asked]
        try:
            found = await run_sync(self._read, polls, limiter=self._thread)
        except Exception as error:
            # Those that wait, too: a database that is away would let each batch wait in its turn.
            waiting, self._asked = self._asked, []
            for _, answer in [*asked, *waiting]:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for (_, answer), polled in zip(asked, found, strict=True):
                # Whoever asked may have gone meanwhile.
                if not answer.done():
                    answer.set_result(polled)

    def _read(self, polls: Sequence[Poll]) -> list[Polled]:
        return read(self._reader, lambda connection: look_up(connection, polls))
