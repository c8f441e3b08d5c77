"""Weights that a job made: by adaptation before its search, by fine-tuning after it.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# An older version would search with the weights as submitted, and call that the result.
_CANCEL_TRAINING_JOBS = """
    UPDATE jobs SET status = 'cancelled', stage = NULL, finished_at = clock_timestamp(),
        version = version + 1
    WHERE status IN ('queued', 'running', 'cancelling')
      AND (request->>'adapt' IS NOT NULL OR request->>'finetune' IS NOT NULL)
"""


def upgrade() -> None:
    """Adds the column."""
    op.add_column("jobs", sa.Column("weights", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    """Drops the column; jobs that are to train end."""
    op.execute(_CANCEL_TRAINING_JOBS)
    op.drop_column("jobs", "weights")
