"""Usage events: the outbox, and the sessions whose end is to be told.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tryon_sessions", sa.Column("metered", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "tryon_usage",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
    )
    op.create_index("ix_tryon_usage_next", "tryon_usage", ["next_at"])


def downgrade() -> None:
    op.drop_index("ix_tryon_usage_next", "tryon_usage")
    op.drop_table("tryon_usage")
    op.drop_column("tryon_sessions", "metered")
