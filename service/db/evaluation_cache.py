"""Statements on the cache of evaluations: what a device answered for one config on one shard.

An entry is written once and read by later jobs of the same owner; its key says all that the answer
depends on. Whatever is missing here is computed again, so entries may go at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from service.db.models import EvaluationCacheRow, table_of

_CACHE = table_of(EvaluationCacheRow)

ENTRY_BYTES = 200
"""What an entry takes beside its states: key, owner and time, and its places in both indexes."""

# One statement of two arrays, however many entries: a shard has one for each of its candidates.
_ADD = text(
    """
    INSERT INTO evaluation_cache (key, owner, states)
    SELECT entry.key, jobs.owner, entry.states
    FROM jobs, unnest(CAST(:keys AS bytea[]), CAST(:states AS json[])) AS entry (key, states)
    WHERE jobs.id = :job_id
    ON CONFLICT DO NOTHING
    """
)
_TURN = text("SELECT pg_try_advisory_xact_lock(hashtextextended('evaluation_cache', 0))")
_STORED = text("SELECT pg_total_relation_size('evaluation_cache')")
_SHRINK = text(
    """
    WITH sized AS (
        SELECT key, sum(pg_column_size(states) + :entry) OVER (ORDER BY created_at DESC, key) AS size
        FROM evaluation_cache
    )
    DELETE FROM evaluation_cache USING sized
    WHERE evaluation_cache.key = sized.key AND sized.size > :most
    RETURNING evaluation_cache.key
    """
)


class EvaluationCacheRepository:
    """Cached evaluations within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The states that stand under those keys; others are left out."""
        statement = select(_CACHE.c.key, _CACHE.c.states).where(_CACHE.c.key.in_(keys))
        return {bytes(row.key): row.states for row in self._session.execute(statement)}

    def add(self, job_id: str, entries: Mapping[bytes, Any]) -> None:
        """Stores states for the job's owner; what stands under a key already stays."""
        if not entries:
            return
        # In one order, so that two workers with the same entries cannot wait for each other.
        keys = sorted(entries)
        states = [json.dumps(entries[key], allow_nan=False) for key in keys]
        self._session.execute(_ADD, {"job_id": job_id, "keys": keys, "states": states})

    def prune(self, days: float, megabytes: float) -> int:
        """Removes entries older than that, then the oldest ones beyond that size; their number.

        Nothing happens while another worker is at it.
        """
        if not self._session.scalar(_TURN):
            return 0
        over = _CACHE.c.created_at < func.clock_timestamp() - timedelta(days=days)
        statement = delete(_CACHE).where(over).returning(_CACHE.c.key)
        removed = len(self._session.scalars(statement).all())
        most = megabytes * 2**20
        stored = self._session.scalar(_STORED)
        assert stored is not None
        if stored > most:  # of rows that left, too, until Postgres uses their place again
            parameters = {"entry": ENTRY_BYTES, "most": most}
            removed += len(self._session.scalars(_SHRINK, parameters).all())
        return removed
