"""Statements on receipts: what a job's latencies rest on, by the job's own receipt ids."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.db.models import ReceiptRow, table_of
from service.domain.records import Json

_RECEIPTS = table_of(ReceiptRow)


class ReceiptRepository:
    """Receipts within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, job_id: str, receipt_id: str, kind: str, document: Json) -> bool:
        """Stores a receipt. False: the job has one of that id already, and it stays."""
        statement = (
            insert(_RECEIPTS)
            .values(job_id=job_id, id=receipt_id, kind=kind, document=document)
            .on_conflict_do_nothing()
            .returning(_RECEIPTS.c.id)
        )
        return self._session.scalar(statement) is not None

    def get(self, job_id: str, receipt_id: str) -> Json | None:
        """The document of one of the job's receipts."""
        statement = select(_RECEIPTS.c.document).where(
            _RECEIPTS.c.job_id == job_id, _RECEIPTS.c.id == receipt_id
        )
        return self._session.scalar(statement)
