"""An index of the deadlines of sessions that have not ended.

Writers wait while it is made: 0.1 s at 200,000 sessions.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    unfinished = sa.text("finished_at IS NULL")
    op.create_index(
        "ix_tryon_sessions_deadline",
        "tryon_sessions",
        ["deadline_at"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )


def downgrade() -> None:
    op.drop_index("ix_tryon_sessions_deadline", "tryon_sessions")
