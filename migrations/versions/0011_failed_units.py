"""An index for the units of a job that have failed.

Revision: 0011, after 0010.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates it."""
    failed = sa.text("state = 'failed'")
    op.create_index("ix_units_failed", "units", ["job_id"], postgresql_where=failed)


def downgrade() -> None:
    """Drops it."""
    op.drop_index("ix_units_failed", "units")
