"""Statements on API keys."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from service.db.models import ApiKeyRow, table_of
from service.domain.keys import key_digest, new_key, same_digest
from service.domain.records import ApiKey

_KEYS = table_of(ApiKeyRow)
# Made once: every request asks it.
_FIND = select(*_KEYS.c).where(_KEYS.c.sha256 == bindparam("digest"), _KEYS.c.revoked_at.is_(None))


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(**row._mapping)


class KeyRepository:
    """API keys within one session, or over a connection that only reads."""

    def __init__(self, session: Session | Connection) -> None:
        self._session = session

    def create(self, owner: str, name: str, admin: bool = False) -> str:
        """Makes a key for `owner` and returns it: it can be read this once only."""
        key = new_key()
        values = {
            "id": f"key_{secrets.token_hex(8)}",
            "owner": owner,
            "name": name,
            "sha256": key_digest(key),
            "admin": admin,
        }
        self._session.execute(insert(_KEYS).values(values))
        return key

    def find(self, key: str) -> ApiKey | None:
        """The key's record; None where it is unknown or revoked."""
        digest = key_digest(key)
        row = self._session.execute(_FIND, {"digest": digest}).one_or_none()
        if row is None or not same_digest(row.sha256, digest):
            return None
        return _key(row)

    def owner_of(self, key: str) -> str | None:
        """Whose key it is; None where it is unknown or revoked."""
        found = self.find(key)
        return None if found is None else found.owner

    def all(self, owner: str | None = None) -> list[ApiKey]:
        """Keys' records, oldest first; of one owner if named."""
        statement = select(*_KEYS.c).order_by(_KEYS.c.created_at, _KEYS.c.id)
        if owner is not None:
            statement = statement.where(_KEYS.c.owner == owner)
        return [_key(row) for row in self._session.execute(statement)]

    def revoke(self, key_id: str) -> bool:
        """Ends a key. False: unknown, or revoked before."""
        statement = (
            update(_KEYS)
            .where(_KEYS.c.id == key_id, _KEYS.c.revoked_at.is_(None))
            .values(revoked_at=func.clock_timestamp())
            .returning(_KEYS.c.id)
        )
        return self._session.execute(statement).one_or_none() is not None
