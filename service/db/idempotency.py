"""Statements on idempotency keys: what a submission was answered, as long as its job is there."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from service.db.models import IdempotencyKeyRow, table_of
from service.domain.records import Json

_KEYS = table_of(IdempotencyKeyRow)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a key stands for: the body's SHA-256, its job, and the answer."""

    body_sha256: str
    job_id: str
    answer: Json


class IdempotencyRepository:
    """Keys within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, owner: str, key: str) -> bool:
        """Holds the key until the transaction ends. False: another one does."""
        number = func.hashtextextended(f"idempotency {owner} {key}", 0)
        return bool(self._session.scalar(select(func.pg_try_advisory_xact_lock(number))))

    def find(self, owner: str, key: str) -> Kept | None:
        """What the key stands for; None: nothing yet."""
        statement = select(_KEYS.c.body_sha256, _KEYS.c.job_id, _KEYS.c.answer).where(
            _KEYS.c.owner == owner, _KEYS.c.key == key
        )
        row = self._session.execute(statement).one_or_none()
        return None if row is None else Kept(**row._mapping)

    def keep(self, owner: str, key: str, kept: Kept) -> None:
        """Makes a key that is held stand for `kept`."""
        values = {"owner": owner, "key": key, **asdict(kept)}
        self._session.execute(insert(_KEYS).values(values))
