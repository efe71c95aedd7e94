"""The session whose photos a session has copied.

Writers wait while the index is made.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tryon_sessions", sa.Column("copy_of", sa.Uuid(as_uuid=False)))
    op.create_index("ix_tryon_sessions_copy_of", "tryon_sessions", ["copy_of"])


def downgrade() -> None:
    op.drop_index("ix_tryon_sessions_copy_of", "tryon_sessions")
    op.drop_column("tryon_sessions", "copy_of")
