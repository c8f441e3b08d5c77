"""Statements on workers and the devices they report."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Row, and_, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.db.models import WorkerRow, table_of
from service.domain.records import Device, DeviceKind, Json, Worker
from service.domain.status import WorkerState

_WORKERS = table_of(WorkerRow)
_CLOCK = func.clock_timestamp()
ONLINE_SECONDS = 30
"""A worker that was not seen for this long counts as offline."""

_ONLINE = and_(
    _WORKERS.c.state != WorkerState.STOPPED,
    _WORKERS.c.seen_at > _CLOCK - timedelta(seconds=ONLINE_SECONDS),
)


def _worker(row: Row[*tuple[Any, ...]]) -> Worker:
    fields = dict(row._mapping)
    fields["state"] = WorkerState(fields["state"])
    return Worker(**fields)


class WorkerRepository:
    """Workers within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def register(
        self,
        worker_id: str,
        device: str,
        device_uuid: str,
        device_kind: DeviceKind,
        host: str,
        versions: Json,
    ) -> None:
        """Writes a worker down as idle; one that comes back under its id starts anew."""
        values = {
            "device": device,
            "device_uuid": device_uuid,
            "device_kind": device_kind,
            "host": host,
            "versions": versions,
            "state": WorkerState.IDLE,
            "unit_id": None,
            "started_at": _CLOCK,
            "seen_at": _CLOCK,
        }
        statement = insert(_WORKERS).values(id=worker_id, **values)
        self._session.execute(
            statement.on_conflict_do_update(index_elements=[_WORKERS.c.id], set_=values)
        )

    def seen(self, worker_id: str, unit_id: int | None) -> bool:
        """Notes that a worker lives, and the unit it holds. False: it is not registered."""
        state = WorkerState.IDLE if unit_id is None else WorkerState.BUSY
        return self._set(worker_id, state, unit_id)

    def stopped(self, worker_id: str) -> bool:
        """Notes that a worker said goodbye. Its device stays known."""
        return self._set(worker_id, WorkerState.STOPPED, None)

    def all(self, online_only: bool = False, device: str | None = None) -> list[Worker]:
        """Workers, last started first; of one device model if named."""
        statement = select(*_WORKERS.c, _ONLINE.label("online"))
        if online_only:
            statement = statement.where(_ONLINE)
        if device is not None:
            statement = statement.where(_WORKERS.c.device == device)
        statement = statement.order_by(_WORKERS.c.started_at.desc(), _WORKERS.c.id)
        return [_worker(row) for row in self._session.execute(statement)]

    def devices(self) -> list[Device]:
        """Every device model a worker has ever reported, by name."""
        statement = (
            select(
                _WORKERS.c.device.label("name"),
                func.min(_WORKERS.c.device_kind).label("kind"),
                func.count().filter(_ONLINE).label("workers_online"),
            )
            .group_by(_WORKERS.c.device)
            .order_by(_WORKERS.c.device)
        )
        return [Device(**row._mapping) for row in self._session.execute(statement)]

    def _set(self, worker_id: str, state: WorkerState, unit_id: int | None) -> bool:
        statement = (
            update(_WORKERS)
            .where(_WORKERS.c.id == worker_id)
            .values(state=state, unit_id=unit_id, seen_at=_CLOCK)
            .returning(_WORKERS.c.id)
        )
        return self._session.execute(statement).one_or_none() is not None
