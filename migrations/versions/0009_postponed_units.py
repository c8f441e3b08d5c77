"""Measurements that wait for a quiet device.

Revision: 0009, after 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns."""
    postponed = sa.Column("postponed", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("units", postponed)
    not_before = sa.Column("not_before", sa.DateTime(timezone=True), nullable=True)
    op.add_column("units", not_before)


def downgrade() -> None:
    """Drops them; units that wait may be claimed at once."""
    for name in ("not_before", "postponed"):
        op.drop_column("units", name)
