"""What a latency map answers before a search: figures of maps and jobs, and dry runs.

Revision: 0002, after 0001. Maps written before lack their figures. They are a cache: they go, and
jobs that search with one start again at their calibration.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_START_AGAIN = (
    # A unit that is leased goes as well: its result is refused, as that of any lost lease is.
    """
    DELETE FROM units USING jobs
    WHERE jobs.id = units.job_id AND jobs.status = 'running' AND units.kind <> 'inspect'
    """,
    "DELETE FROM evaluations USING jobs WHERE jobs.id = job_id AND jobs.status = 'running'",
    """
    UPDATE jobs SET stage = 'calibrate', latency_map_key = NULL, estimated_finish_at = NULL,
        progress = '{"done": 0, "failed": 0, "total": null, "generation": null, "best": null}',
        version = version + 1
    WHERE status = 'running' AND stage <> 'inspect'
    """,
    "DELETE FROM latency_maps",
)
_CANCEL_DRY_RUNS = """
    UPDATE jobs SET status = 'cancelled', stage = NULL, finished_at = clock_timestamp()
    WHERE dry_run AND status IN ('queued', 'running', 'cancelling')
"""


def upgrade() -> None:
    """Adds the columns, and empties the cache of maps."""
    for statement in _START_AGAIN:
        op.execute(statement)
    op.add_column("latency_maps", sa.Column("summary", postgresql.JSONB(), nullable=True))
    op.add_column("jobs", sa.Column("latency", postgresql.JSONB(), nullable=True))
    dry_run = sa.Column("dry_run", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("jobs", dry_run)
    op.add_column("jobs", sa.Column("fingerprint", sa.Text(), nullable=True))
    op.create_index(
        "ix_jobs_owner_fingerprint_created_at", "jobs", ["owner", "fingerprint", "created_at"]
    )


def downgrade() -> None:
    """Drops the columns; dry runs end, since an older version would search on."""
    op.execute(_CANCEL_DRY_RUNS)
    op.drop_index("ix_jobs_owner_fingerprint_created_at", "jobs")
    for column in ("fingerprint", "dry_run", "latency"):
        op.drop_column("jobs", column)
    op.drop_column("latency_maps", "summary")
