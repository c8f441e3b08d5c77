"""What retention lets go: jobs that ended long ago, with their rows, and files that nobody refers to.

Jobs that have ended never change, so their rows may go while others run. A file goes where no row
refers to it any more and nobody has stored it lately: a unit that is about to be handed in refers to
files as well, and a worker that stores one again renews its time (`ArtefactStore.put`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, Select, TextClause, bindparam, delete, func, select, text
from sqlalchemy.orm import Session

from service.db.artefacts import TRAININGS, ArtefactStore, StoredFile
from service.db.models import EvaluationRow, JobRow, ReceiptRow, UnitRow, table_of
from service.db.session import session_scope
from service.domain.status import TERMINAL, TRAINING_KINDS, JobStatus, UnitKind

LATELY = timedelta(days=1)
"""Longer than any unit runs: a file without a row that is younger may be about to get one."""

BATCH = 100
"""Jobs that go in one transaction: nobody waits for it for long."""

_TERMINAL = sorted(TERMINAL)
_LIVE = [status for status in JobStatus if status not in TERMINAL]
_JOBS = table_of(JobRow)
_TABLES = {row.__tablename__: table_of(row) for row in (EvaluationRow, UnitRow, ReceiptRow)}

_USED = text(
    """
    WITH kept AS (
        SELECT id, status, artefacts, weights FROM jobs
        WHERE status = ANY(:live) OR finished_at >= clock_timestamp() - :age
    )
    SELECT picture.value FROM kept, jsonb_each_text(artefacts) AS picture
    UNION SELECT weights->>'sha256' FROM kept
    UNION SELECT result->>'weights' FROM units JOIN kept ON kept.id = job_id
        WHERE kind = ANY(:trainings)
    UNION SELECT result->>'checkpoint' FROM units JOIN kept ON kept.id = job_id
        WHERE kind = ANY(:trainings) AND status = ANY(:live)
    UNION SELECT picture.value FROM units JOIN kept ON kept.id = job_id,
        json_each_text(result->'artefacts') AS picture WHERE kind = :measure
    """
).bindparams(
    bindparam("live", _LIVE),
    bindparam("trainings", sorted(TRAINING_KINDS)),
    bindparam("measure", UnitKind.MEASURE),
)
# A map made on a disturbed device serves its own job alone; see `LatencyMapRepository.standing`.
_UNUSED_MAPS = """
    FROM latency_maps AS map
    WHERE key LIKE '%-%' AND created_at < clock_timestamp() - :lately AND NOT EXISTS (
        SELECT 1 FROM jobs
        WHERE (status = ANY(:live) OR finished_at >= clock_timestamp() - :age)
          AND (latency_map_key = map.key OR resolutions @> jsonb_build_array(
              jsonb_build_object('latency_map_key', map.key)))
    )
"""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is to go. rows: so many of each table."""

    jobs: Sequence[str]
    rows: dict[str, int]
    files: Sequence[StoredFile]
    folders: Sequence[Path]

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.files)


def find(engine: Engine, store: ArtefactStore, age: timedelta) -> Leftovers:
    """Jobs that ended longer than `age` ago, and what no other job needs."""
    # First what is there and then who needs it: what comes meanwhile is not looked at.
    files, folders = store.files(), _training_folders(store)
    with session_scope(engine) as session:
        retention = RetentionRepository(session, age)
        jobs = retention.old_jobs()
        rows = retention.old_rows()
        used = retention.used_files()
        live = retention.live_jobs(folder.name for folder in folders)
    return Leftovers(
        jobs,
        rows,
        [file for file in files if file.digest not in used and file.changed_at < _lately()],
        [folder for folder in folders if folder.name not in live],
    )


def remove(engine: Engine, store: ArtefactStore, found: Leftovers, age: timedelta) -> None:
    """Lets it go: rows first, so that no job is left without its files."""
    for first in range(0, len(found.jobs), BATCH):
        with session_scope(engine) as session:
            RetentionRepository(session, age).delete_jobs(found.jobs[first : first + BATCH])
    with session_scope(engine) as session:
        RetentionRepository(session, age).delete_maps()
    for file in found.files:
        store.discard(file, _lately())
    for folder in found.folders:
        shutil.rmtree(folder, ignore_errors=True)


def _lately() -> float:
    return time.time() - LATELY.total_seconds()


def _training_folders(store: ArtefactStore) -> list[Path]:
    """Where attempts at trainings work, one folder a job."""
    try:
        with os.scandir(store.root / TRAININGS) as entries:
            return sorted(Path(one.path) for one in entries if one.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


class RetentionRepository:
    """Statements on what is older than `age`, within one session."""

    def __init__(self, session: Session, age: timedelta) -> None:
        self._session = session
        self._age = age

    def old_jobs(self) -> list[str]:
        """Ids of the jobs that ended before that, the oldest first."""
        return list(self._session.scalars(self._old().order_by(_JOBS.c.finished_at)))

    def _old(self) -> Select[tuple[str]]:
        over = _JOBS.c.finished_at < func.clock_timestamp() - self._age
        return select(_JOBS.c.id).where(_JOBS.c.status.in_(_TERMINAL), over)

    def old_rows(self) -> dict[str, int]:
        """How many rows of each table go with those jobs."""
        counts = {
            name: self._session.scalar(
                select(func.count()).select_from(table).where(table.c.job_id.in_(self._old()))
            )
            or 0
            for name, table in _TABLES.items()
        }
        maps = self._session.scalar(_maps("SELECT count(*)"), self._times())
        return {**counts, "latency_maps": maps or 0}

    def delete_jobs(self, jobs: Sequence[str]) -> None:
        """Deletes jobs and all that refers to them; events and idempotency keys go by themselves."""
        for table in _TABLES.values():
            self._session.execute(delete(table).where(table.c.job_id.in_(jobs)))
        ended = _JOBS.c.status.in_(_TERMINAL)
        self._session.execute(delete(_JOBS).where(_JOBS.c.id.in_(jobs), ended))

    def delete_maps(self) -> None:
        """Deletes the maps that served a deleted job alone."""
        self._session.execute(_maps("DELETE"), self._times())

    def used_files(self) -> set[str | None]:
        """SHA-256 of every file that a job refers to which stays."""
        return set(self._session.scalars(_USED, {"age": self._age}))

    def live_jobs(self, jobs: Iterable[str]) -> set[str]:
        """Those of the jobs that have not ended."""
        statement = select(_JOBS.c.id).where(_JOBS.c.id.in_(list(jobs)), _JOBS.c.status.in_(_LIVE))
        return set(self._session.scalars(statement))

    def _times(self) -> dict[str, timedelta]:
        return {"age": self._age, "lately": LATELY}


def _maps(verb: str) -> TextClause:
    return text(verb + _UNUSED_MAPS).bindparams(bindparam("live", _LIVE))
