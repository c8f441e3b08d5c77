"""Candidates that are dropped before they are evaluated on all images.

Revision: 0005, after 0004. Answers of evaluations hold metric states of parts of a shard, and a shard
is a random sample of the images: those that stand in another form go, and jobs that search begin
their search again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SEARCHING = "jobs.status IN ('queued', 'running', 'cancelling') AND jobs.stage = 'search'"
_SEARCH_AGAIN = (
    # A unit that is leased goes as well: its result is refused, as that of any lost lease is.
    f"""
    DELETE FROM units USING jobs
    WHERE jobs.id = units.job_id AND units.generation <> -1 AND {_SEARCHING}
    """,
    f"DELETE FROM evaluations USING jobs WHERE jobs.id = job_id AND {_SEARCHING}",
    f"""
    UPDATE jobs SET estimated_finish_at = NULL, version = version + 1,
        progress = json_build_object('done', 0, 'failed', 0, 'total', progress->'total',
            'generation', NULL, 'best', NULL, 'training', NULL)
    WHERE {_SEARCHING}
    """,
    "DELETE FROM evaluation_cache",
)
# An older version knows no such state; nor does it take such a metric for one on all images.
_DROPPED_FAILED = """
    UPDATE evaluations SET state = 'failed', metric = NULL, metric_interval = NULL
    WHERE state = 'dropped'
"""


def upgrade() -> None:
    """Adds the columns."""
    for statement in _SEARCH_AGAIN:
        op.execute(statement)
    for name in ("images", "rival_id"):
        op.add_column("evaluations", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("evaluations", sa.Column("folds", postgresql.JSON(), nullable=True))


def downgrade() -> None:
    """Drops them."""
    for statement in (*_SEARCH_AGAIN, _DROPPED_FAILED):
        op.execute(statement)
    for name in ("folds", "rival_id", "images"):
        op.drop_column("evaluations", name)
