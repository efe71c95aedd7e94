"""A day's uploads of each owner or address, for quotas.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tryon_quotas",
        sa.Column("subject", sa.String(32), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("uploads", sa.Integer, nullable=False),
    )
    op.create_index("ix_tryon_quotas_day", "tryon_quotas", ["day"])


def downgrade() -> None:
    op.drop_table("tryon_quotas")
