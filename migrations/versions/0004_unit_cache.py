"""Answers of evaluations are kept for later jobs; units that keep failing are taken apart.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UNIQUE = "uq_units_job_id_kind_generation_shard"
_UNIT = ["job_id", "kind", "generation", "shard"]

# An older version knows whole shards only: what was taken apart is tried as a whole again.
_WHOLE_SHARDS = (
    "DELETE FROM units WHERE part <> -1",
    """
    UPDATE units SET state = 'pending', failures = 0, finished_at = NULL FROM jobs
    WHERE units.state = 'broken' AND jobs.id = units.job_id
      AND jobs.status IN ('queued', 'running', 'cancelling')
    """,
    "UPDATE units SET state = 'failed' WHERE state = 'broken'",
)


def upgrade() -> None:
    """Creates the cache, and adds the columns."""
    clock = sa.text("clock_timestamp()")
    op.create_table(
        "evaluation_cache",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("states", postgresql.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=clock),
        sa.PrimaryKeyConstraint("key", name="pk_evaluation_cache"),
    )
    op.create_index("ix_evaluation_cache_created_at", "evaluation_cache", ["created_at"])
    op.add_column("evaluations", sa.Column("error", postgresql.JSONB(), nullable=True))
    part = sa.Column("part", sa.BigInteger(), nullable=False, server_default="-1")
    op.add_column("units", part)
    op.drop_constraint(_UNIQUE, "units")
    op.create_unique_constraint(_UNIQUE, "units", [*_UNIT, "part"])


def downgrade() -> None:
    """Drops them."""
    for statement in _WHOLE_SHARDS:
        op.execute(statement)
    op.drop_constraint(_UNIQUE, "units")
    op.create_unique_constraint(_UNIQUE, "units", _UNIT)
    op.drop_column("units", "part")
    op.drop_column("evaluations", "error")
    op.drop_table("evaluation_cache")
