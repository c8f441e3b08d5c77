"""Searches at several inputs.

Revision: 0008, after 0007. Units and candidates say which of their job's inputs they are for.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_UNIT = "uq_units_job_id_kind_generation_shard"
_CONFIG, _PLACE = "uq_evaluations_job_id_config_key", "uq_evaluations_job_id_generation_position"

# (table, name, columns) of the constraints that change.
_BEFORE = (
    ("units", _UNIT, ["job_id", "kind", "generation", "shard", "part"]),
    ("evaluations", _CONFIG, ["job_id", "config_key"]),
    ("evaluations", _PLACE, ["job_id", "generation", "position"]),
)
_AFTER = (
    ("units", _UNIT, ["job_id", "kind", "resolution", "generation", "shard", "part"]),
    (
        "evaluations",
        "uq_evaluations_job_id_resolution_config_key",
        ["job_id", "resolution", "config_key"],
    ),
    (
        "evaluations",
        "uq_evaluations_job_id_resolution_generation_position",
        ["job_id", "resolution", "generation", "position"],
    ),
)

# An older version knows one input a job.
_ONE_INPUT = (
    """
    UPDATE jobs SET status = 'cancelled', stage = NULL, finished_at = clock_timestamp(),
        estimated_finish_at = NULL, version = version + 1
    WHERE status IN ('queued', 'running', 'cancelling')
      AND json_typeof(request -> 'input') = 'array'
    """,
    "DELETE FROM units WHERE resolution <> 0",
    "DELETE FROM evaluations WHERE resolution <> 0",
)


def upgrade() -> None:
    """Adds the columns."""
    op.add_column("jobs", sa.Column("resolutions", postgresql.JSONB(), nullable=True))
    for table in ("units", "evaluations"):
        column = sa.Column("resolution", sa.BigInteger(), nullable=False, server_default="0")
        op.add_column(table, column)
    _replace(_BEFORE, _AFTER)


def downgrade() -> None:
    """Drops them; jobs with several inputs end."""
    for statement in _ONE_INPUT:
        op.execute(statement)
    _replace(_AFTER, _BEFORE)
    for table in ("units", "evaluations"):
        op.drop_column(table, "resolution")
    op.drop_column("jobs", "resolutions")


def _replace(old: tuple, new: tuple) -> None:
    for table, name, _ in old:
        op.drop_constraint(name, table)
    for table, name, columns in new:
        op.create_unique_constraint(name, table, columns)
