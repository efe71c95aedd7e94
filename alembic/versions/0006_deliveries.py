"""Webhooks that are to be sent, one for each session that has one.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    undelivered = sa.text("delivered_at IS NULL")
    op.create_table(
        "tryon_deliveries",
        sa.Column("session_id", sa.Uuid(as_uuid=False), primary_key=True),
        sa.Column("url", sa.String(1000), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True)),
    )
    op.create_index(
        "ix_tryon_deliveries_next",
        "tryon_deliveries",
        ["next_at"],
        sqlite_where=undelivered,
        postgresql_where=undelivered,
    )


def downgrade() -> None:
    op.drop_table("tryon_deliveries")
