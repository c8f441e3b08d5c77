"""An index for an owner's jobs of one status.

Revision: 0010, after 0009.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates it."""
    op.create_index("ix_jobs_owner_status", "jobs", ["owner", "status", "created_at", "id"])


def downgrade() -> None:
    """Drops it."""
    op.drop_index("ix_jobs_owner_status", "jobs")
