"""Statements on what is under way, for /metrics: each reads an index of live rows, whatever has
ended."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

# States stand as literals: only so is it plain that the partial indexes hold all that is asked for.
_JOBS = text(
    """
    SELECT status, count(*) AS count FROM jobs
    WHERE status IN ('queued', 'running', 'cancelling') GROUP BY status ORDER BY status
    """
)
_UNITS = text(
    """
    SELECT kind, 'pending' AS state, device, count(*) AS count,
           extract(epoch FROM clock_timestamp() - min(created_at))::float8 AS oldest
    FROM units WHERE state = 'pending' GROUP BY kind, device
    UNION ALL
    SELECT kind, 'leased', device, count(*), 0
    FROM units WHERE state = 'leased' GROUP BY kind, device
    ORDER BY 1, 2, 3
    """
)
# A worker that was killed never says goodbye: it is shown for a day.
_WORKERS = text(
    """
    SELECT id, device, state,
           extract(epoch FROM clock_timestamp() - seen_at)::float8 AS seen_seconds_ago
    FROM workers WHERE state <> 'stopped' AND seen_at > clock_timestamp() - interval '1 day'
    ORDER BY id
    """
)


@dataclass(frozen=True, slots=True)
class LiveUnits:
    """How many units of a kind, for a device model (None: any), wait or run; and how long ago the
    oldest one that waits was added, in seconds."""

    kind: str
    state: str
    device: str | None
    count: int
    oldest: float


@dataclass(frozen=True, slots=True)
class WorkerAge:
    """When a worker was last heard of."""

    id: str
    device: str
    state: str
    seen_seconds_ago: float


class MetricsRepository:
    """Reads within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def open_jobs(self) -> dict[str, int]:
        """How many jobs have which status, of those that have not ended."""
        return {row.status: row.count for row in self._session.execute(_JOBS)}

    def live_units(self) -> list[LiveUnits]:
        """Units that are pending or leased."""
        return [LiveUnits(**row._mapping) for row in self._session.execute(_UNITS)]

    def workers(self) -> list[WorkerAge]:
        """Workers that have not stopped, as far as is known."""
        return [WorkerAge(**row._mapping) for row in self._session.execute(_WORKERS)]
