"""Indexes of lists: a job's candidates by id, an owner's jobs of one status.

Revision: 0010, after 0009.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_evaluations_job_id_id", "evaluations", ["job_id", "id"]),
    ("ix_jobs_owner_status", "jobs", ["owner", "status", "created_at", "id"]),
)


def upgrade() -> None:
    """Creates them."""
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)


def downgrade() -> None:
    """Drops them."""
    for name, table, _ in _INDEXES:
        op.drop_index(name, table)
