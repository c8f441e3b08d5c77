"""The statement behind GET /jobs/{id}: whose key, and how the job stands, for many polls at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from service.db.job_columns import JOBS, SHOWN, job_of
from service.db.models import ApiKeyRow, table_of
from service.domain.keys import same_digest
from service.domain.records import Job

_KEYS = table_of(ApiKeyRow)
_TEXTS = ARRAY(Text)
_ASKED = (
    func.unnest(bindparam("digests", type_=_TEXTS), bindparam("job_ids", type_=_TEXTS))
    .table_valued("digest", "job_id", with_ordinality="place")
    .render_derived("asked")
)
_WHO = (_ASKED.c.place, _KEYS.c.sha256, _KEYS.c.owner.label("caller"))
# Made once: every client polls.
_LOOK_UP = select(*_WHO, *SHOWN).select_from(
    _ASKED.join(
        _KEYS, (_KEYS.c.sha256 == _ASKED.c.digest) & _KEYS.c.revoked_at.is_(None)
    ).outerjoin(JOBS, (JOBS.c.id == _ASKED.c.job_id) & (JOBS.c.owner == _KEYS.c.owner))
)
_NAMES = [column.name for column in SHOWN]


@dataclass(frozen=True, slots=True)
class Poll:
    """A question: the digest of the caller's key, and a job's id (None: what is no id)."""

    digest: str
    job_id: str | None


@dataclass(frozen=True, slots=True)
class Polled:
    """Its answer. owner: the caller, None where the key is unknown or revoked. columns: of the job's
    row, None where the caller has none of this id."""

    owner: str | None = None
    columns: Mapping[str, Any] | None = None

    @property
    def job(self) -> Job | None:
        """As `JobRepository.shown` has it: made for whoever asks, so that a row that makes none fails
        nobody else."""
        return None if self.columns is None else job_of(self.columns)


def look_up(connection: Connection, polls: Sequence[Poll]) -> list[Polled]:
    """The answers to `polls`, in their order, by one statement."""
    asked = {"digests": [poll.digest for poll in polls], "job_ids": [poll.job_id for poll in polls]}
    found = [Polled()] * len(polls)
    for place, sha256, caller, *columns in connection.execute(_LOOK_UP, asked):
        if same_digest(sha256, polls[place - 1].digest):
            fields = dict(zip(_NAMES, columns, strict=True))
            found[place - 1] = Polled(caller, None if fields["id"] is None else fields)
    return found
