"""Events of jobs, tallies of what has ended, and keys of those who watch over the service.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A stream ends with the event of its job's end, so every job that is there gets one event at least.
_FIRST_EVENTS = """
    INSERT INTO job_events (job_id, kind, data)
    SELECT id, 'status', jsonb_build_object(
        'version', version, 'status', status, 'stage', stage, 'error', error)
    FROM jobs
"""


def upgrade() -> None:
    """Creates the tables, and adds the column."""
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("clock_timestamp()"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_job_events"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_events_job_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_job_events_job_id_id", "job_events", ["job_id", "id"])
    op.execute(_FIRST_EVENTS)
    op.create_table(
        "tallies",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("name", "kind", "outcome")),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("name", "kind", "outcome", name="pk_tallies"),
    )
    admin = sa.Column("admin", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("api_keys", admin)


def downgrade() -> None:
    """Drops them."""
    op.drop_column("api_keys", "admin")
    op.drop_table("tallies")
    op.drop_table("job_events")
