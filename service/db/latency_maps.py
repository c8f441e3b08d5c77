"""Statements on latency maps. A map is written once; whoever comes second reads the first one's."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.db.models import LatencyMapRow, table_of
from service.domain.records import Json, LatencyMapRecord, MapFigures

_MAPS = table_of(LatencyMapRow)
_FIGURES = select(
    _MAPS.c.key,
    _MAPS.c.device,
    _MAPS.c.document["facts"].label("facts"),
    _MAPS.c.summary,
    _MAPS.c.created_at,
    (func.clock_timestamp() - _MAPS.c.created_at).label("age"),
)


class LatencyMapRepository:
    """Latency maps within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, key: str) -> LatencyMapRecord | None:
        """The map that stands under `key`."""
        row = self._session.execute(select(*_MAPS.c).where(_MAPS.c.key == key)).one_or_none()
        return None if row is None else LatencyMapRecord(**row._mapping)

    def add(self, key: str, device: str, document: Json, summary: Json | None) -> bool:
        """Stores a map. False: one stands under that key already, and stays."""
        statement = (
            insert(_MAPS)
            .values(key=key, device=device, document=document, summary=summary)
            .on_conflict_do_nothing()
            .returning(_MAPS.c.key)
        )
        return self._session.scalar(statement) is not None

    def figures(self, key: str) -> MapFigures | None:
        """What the map under `key` answers, without its document."""
        row = self._session.execute(_FIGURES.where(_MAPS.c.key == key)).one_or_none()
        return None if row is None else MapFigures(**row._mapping)

    def standing(self) -> list[MapFigures]:
        """What the maps answer that other jobs reuse, oldest first.

        A map made on a disturbed device serves its own job: its key ends in the id of a receipt.
        """
        shared = _MAPS.c.summary.is_not(None) & ~_MAPS.c.key.contains("-")
        statement = _FIGURES.where(shared).order_by(_MAPS.c.created_at, _MAPS.c.key)
        return [MapFigures(**row._mapping) for row in self._session.execute(statement)]
