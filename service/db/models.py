"""The tables. Postgres only.

`jsonb` where SQL looks inside or a value is merged; plain `json` for documents that are handed out
as they came in, because jsonb would reorder their keys.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Document = dict[str, Any]

_NOW = func.clock_timestamp()


class Base(DeclarativeBase):
    """Root of the tables; names every constraint, so that migrations can."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, datetime: DateTime(timezone=True), int: BigInteger}  # noqa: RUF012


def table_of(row: type[Base]) -> Table:
    """The table behind a class, for statements on plain rows."""
    table = row.__table__
    assert isinstance(table, Table)
    return table


class JobRow(Base):
    """A user's search, or a dry run of one."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    status: Mapped[str]
    stage: Mapped[str | None]
    version: Mapped[int] = mapped_column(server_default="1")
    dry_run: Mapped[bool] = mapped_column(server_default=false())
    request_id: Mapped[str | None]
    request: Mapped[Document] = mapped_column(JSON)
    fingerprint: Mapped[str | None]
    checkpoint_file: Mapped[Document | None] = mapped_column(JSONB(none_as_null=True))
    dataset_file: Mapped[Document | None] = mapped_column(JSONB(none_as_null=True))
    device: Mapped[str | None]
    inspection: Mapped[Document | None] = mapped_column(JSON(none_as_null=True))
    latency_map_key: Mapped[str | None]
    latency: Mapped[Document | None] = mapped_column(JSONB(none_as_null=True))
    resolutions: Mapped[list[Document] | None] = mapped_column(JSONB(none_as_null=True))
    checkpoint_sha256: Mapped[str | None]
    dataset_sha256: Mapped[str | None]
    weights: Mapped[Document | None] = mapped_column(JSONB(none_as_null=True))
    progress: Mapped[Document] = mapped_column(JSON)
    verdicts: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'"))
    error: Mapped[Document | None] = mapped_column(JSONB(none_as_null=True))
    result: Mapped[Document | None] = mapped_column(JSON(none_as_null=True))
    front: Mapped[list[Document] | None] = mapped_column(JSON(none_as_null=True))
    artefacts: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'"))
    # `metadata` is taken by the declarative base.
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata", JSON)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    started_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    estimated_finish_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "owner", "created_at", "id"),
        Index(None, "owner", "fingerprint", "created_at"),
        Index("ix_jobs_owner_status", "owner", "status", "created_at", "id"),
        Index(
            "ix_jobs_live",
            "status",
            postgresql_where=text("status IN ('queued', 'running', 'cancelling')"),
        ),
    )


class UnitRow(Base):
    """A leased piece of a job's work; -1 where a kind has no generation or shard, or does all of it."""

    __tablename__ = "units"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str]
    resolution: Mapped[int] = mapped_column(server_default="0")
    generation: Mapped[int] = mapped_column(server_default="-1")
    shard: Mapped[int] = mapped_column(server_default="-1")
    part: Mapped[int] = mapped_column(server_default="-1")
    payload: Mapped[Document] = mapped_column(JSON)
    state: Mapped[str]
    attempt: Mapped[int] = mapped_column(server_default="0")
    failures: Mapped[int] = mapped_column(server_default="0")
    postponed: Mapped[int] = mapped_column(server_default="0")
    not_before: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    worker_id: Mapped[str | None]
    device: Mapped[str | None]
    device_uuid: Mapped[str | None]
    result: Mapped[Document | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[Document | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint(
            *("job_id", "kind", "resolution", "generation", "shard", "part"),
            name="uq_units_job_id_kind_generation_shard",
        ),
        Index(None, "job_id", "started_at"),
        Index("ix_units_pending", "id", postgresql_where=text("state = 'pending'")),
        Index("ix_units_leased", "lease_until", postgresql_where=text("state = 'leased'")),
        Index("ix_units_failed", "job_id", postgresql_where=text("state = 'failed'")),
    )


class EvaluationRow(Base):
    """One candidate of a job, counted once: a config is unique at each of the job's inputs.

    rival_id: the evaluation it races against. folds: metric states on parts of the images, of those
    that may become somebody's rival; no reader of evaluations gets them.
    """

    __tablename__ = "evaluations"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    config_key: Mapped[str]
    resolution: Mapped[int] = mapped_column(server_default="0")
    generation: Mapped[int]
    position: Mapped[int]
    genes: Mapped[list[int]] = mapped_column(JSONB)
    state: Mapped[str]
    metric: Mapped[float | None] = mapped_column(Float(53))
    metric_interval: Mapped[list[float] | None] = mapped_column(JSONB(none_as_null=True))
    images: Mapped[int | None]
    latency_ms: Mapped[float] = mapped_column(Float(53))
    rival_id: Mapped[int | None]
    folds: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[Document | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("job_id", "resolution", "config_key"),
        UniqueConstraint("job_id", "resolution", "generation", "position"),
    )


class JobEventRow(Base):
    """What has changed about a job, for those who watch it; written together with the change.

    data: the fields of the job that changed.
    """

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[str]
    data: Mapped[Document] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)

    __table_args__ = (Index(None, "job_id", "id"),)


class IdempotencyKeyRow(Base):
    """A submission that its caller may repeat, and what the first one was answered.

    body_sha256: of the request's body, 64 hex digits; another body under the same key is refused.
    """

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    answer: Mapped[Document] = mapped_column(JSON)

    __table_args__ = (Index(None, "job_id"),)


class TallyRow(Base):
    """How often something has come to an end so far, and how long it took; outlives the rows counted.

    name        kind                   outcome
    job         search, dry_run        the status it ended with
    unit        the unit's             of an attempt: done, retried, failed, broken, cancelled,
                                       postponed, released, expired (its lease), fenced (it came
                                       too late)
    measurement the unit's             quiet, disturbed
    """

    __tablename__ = "tallies"

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    seconds: Mapped[float] = mapped_column(Float(53))


class EvaluationCacheRow(Base):
    """What a device answered for one config on one shard, for later jobs of the same owner.

    key: SHA-256 of all that the answer depends on, 32 bytes; see worker.reuse.
    """

    __tablename__ = "evaluation_cache"

    key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    owner: Mapped[str]
    states: Mapped[Any] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)

    __table_args__ = (Index(None, "created_at"),)


class ReceiptRow(Base):
    """All that is needed to believe one of a job's latencies."""

    __tablename__ = "receipts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    document: Mapped[Document] = mapped_column(JSON)


class LatencyMapRow(Base):
    """A latency map that stands: written once, reused by every job with the same key."""

    __tablename__ = "latency_maps"

    key: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    document: Mapped[Document] = mapped_column(JSON)
    summary: Mapped[Document | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class WorkerRow(Base):
    """A worker as it last reported itself."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    device_uuid: Mapped[str]
    device_kind: Mapped[str]
    host: Mapped[str]
    versions: Mapped[Document] = mapped_column(JSON)
    state: Mapped[str]
    unit_id: Mapped[int | None]
    started_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class ApiKeyRow(Base):
    """An API key, as the SHA-256 of it."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    admin: Mapped[bool] = mapped_column(server_default=false())
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    revoked_at: Mapped[datetime | None]
