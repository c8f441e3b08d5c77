"""Statements on latency maps. A map is written once; whoever comes second reads the first one's."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.db.models import LatencyMapRow, table_of
from service.domain.records import Json, LatencyMapRecord

_MAPS = table_of(LatencyMapRow)


class LatencyMapRepository:
    """Latency maps within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, key: str) -> LatencyMapRecord | None:
        """The map that stands under `key`."""
        row = self._session.execute(select(*_MAPS.c).where(_MAPS.c.key == key)).one_or_none()
        return None if row is None else LatencyMapRecord(**row._mapping)

    def add(self, key: str, device: str, document: Json) -> bool:
        """Stores a map. False: one stands under that key already, and stays."""
        statement = (
            insert(_MAPS)
            .values(key=key, device=device, document=document)
            .on_conflict_do_nothing()
            .returning(_MAPS.c.key)
        )
        return self._session.scalar(statement) is not None

    def all(self, device: str | None = None) -> list[LatencyMapRecord]:
        """The maps that stand, oldest first; of one device model if named."""
        statement = select(*_MAPS.c).order_by(_MAPS.c.created_at, _MAPS.c.key)
        if device is not None:
            statement = statement.where(_MAPS.c.device == device)
        return [LatencyMapRecord(**row._mapping) for row in self._session.execute(statement)]
