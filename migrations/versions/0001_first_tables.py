"""Jobs, their units, evaluations and receipts; latency maps, workers, API keys.

Revision: 0001, the first.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), **{"nullable": False, **options})


def _integer(name: str, **options: Any) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), **{"nullable": False, **options})


def _json(name: str, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, postgresql.JSON(), nullable=nullable)


def _jsonb(name: str, nullable: bool = False, default: str | None = None) -> sa.Column[Any]:
    server_default = None if default is None else sa.text(f"'{default}'")
    return sa.Column(name, postgresql.JSONB(), nullable=nullable, server_default=server_default)


def _time(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=True)


def _now(name: str) -> sa.Column[Any]:
    clock = sa.text("clock_timestamp()")
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=clock)


def _identity() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False)


def _of_job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{table}_job_id")


def upgrade() -> None:
    """Creates every table."""
    _create_jobs()
    _create_units()
    _create_evaluations()
    op.create_table(
        "receipts",
        _text("job_id"),
        _text("id"),
        _text("kind"),
        _json("document"),
        _of_job("receipts"),
        sa.PrimaryKeyConstraint("job_id", "id", name="pk_receipts"),
    )
    op.create_table(
        "latency_maps",
        _text("key"),
        _text("device"),
        _json("document"),
        _now("created_at"),
        sa.PrimaryKeyConstraint("key", name="pk_latency_maps"),
    )
    op.create_table(
        "workers",
        _text("id"),
        _text("device"),
        _text("device_uuid"),
        _text("device_kind"),
        _text("host"),
        _json("versions"),
        _text("state"),
        _integer("unit_id", nullable=True),
        _now("started_at"),
        _now("seen_at"),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "api_keys",
        _text("id"),
        _text("owner"),
        _text("sha256"),
        _text("name"),
        _now("created_at"),
        _time("revoked_at"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("sha256", name="uq_api_keys_sha256"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        _text("id"),
        _text("owner"),
        _text("status"),
        _text("stage", nullable=True),
        _integer("version", server_default="1"),
        _json("request"),
        _jsonb("checkpoint_file", nullable=True),
        _jsonb("dataset_file", nullable=True),
        _text("device", nullable=True),
        _json("inspection", nullable=True),
        _text("latency_map_key", nullable=True),
        _text("checkpoint_sha256", nullable=True),
        _text("dataset_sha256", nullable=True),
        _json("progress"),
        _jsonb("verdicts", default="[]"),
        _jsonb("error", nullable=True),
        _json("result", nullable=True),
        _json("front", nullable=True),
        _jsonb("artefacts", default="{}"),
        _json("metadata"),
        _now("created_at"),
        _time("started_at"),
        _time("cancel_requested_at"),
        _time("finished_at"),
        _time("estimated_finish_at"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_owner_created_at_id", "jobs", ["owner", "created_at", "id"])
    op.create_index(
        "ix_jobs_live",
        "jobs",
        ["status"],
        postgresql_where=sa.text("status IN ('queued', 'running', 'cancelling')"),
    )


def _create_units() -> None:
    op.create_table(
        "units",
        _identity(),
        _text("job_id"),
        _text("kind"),
        _integer("generation", server_default="-1"),
        _integer("shard", server_default="-1"),
        _json("payload"),
        _text("state"),
        _integer("attempt", server_default="0"),
        _integer("failures", server_default="0"),
        _time("lease_until"),
        _text("worker_id", nullable=True),
        _text("device", nullable=True),
        _text("device_uuid", nullable=True),
        _json("result", nullable=True),
        _jsonb("error", nullable=True),
        _now("created_at"),
        _time("started_at"),
        _time("finished_at"),
        _of_job("units"),
        sa.PrimaryKeyConstraint("id", name="pk_units"),
        sa.UniqueConstraint(
            "job_id", "kind", "generation", "shard", name="uq_units_job_id_kind_generation_shard"
        ),
    )
    op.create_index("ix_units_job_id_started_at", "units", ["job_id", "started_at"])
    op.create_index(
        "ix_units_pending", "units", ["id"], postgresql_where=sa.text("state = 'pending'")
    )
    op.create_index(
        "ix_units_leased", "units", ["lease_until"], postgresql_where=sa.text("state = 'leased'")
    )


def _create_evaluations() -> None:
    op.create_table(
        "evaluations",
        _identity(),
        _text("job_id"),
        _text("config_key"),
        _integer("generation"),
        _integer("position"),
        _jsonb("genes"),
        _text("state"),
        sa.Column("metric", sa.Float(53), nullable=True),
        _jsonb("metric_interval", nullable=True),
        sa.Column("latency_ms", sa.Float(53), nullable=False),
        _now("created_at"),
        _time("finished_at"),
        _of_job("evaluations"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
        sa.UniqueConstraint("job_id", "config_key", name="uq_evaluations_job_id_config_key"),
        sa.UniqueConstraint(
            "job_id", "generation", "position", name="uq_evaluations_job_id_generation_position"
        ),
    )


def downgrade() -> None:
    """Drops every table."""
    tables = ("api_keys", "workers", "latency_maps", "receipts", "evaluations", "units", "jobs")
    for table in tables:
        op.drop_table(table)
