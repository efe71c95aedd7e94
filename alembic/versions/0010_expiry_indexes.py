"""Indexes of what the reconciler looks for, beside ten million sessions.

Expired sessions are read in the order of their expiry and id, a page at a time; many
may expire at the same moment. Tombstones are looked for by their hashes, cleanups by
the end of their time.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_tryon_sessions_expires", "tryon_sessions")
    op.create_index("ix_tryon_sessions_expires", "tryon_sessions", ["expires_at", "id"])
    op.create_index("ix_tryon_gone_hash", "tryon_gone", ["id_hash"])
    op.create_index("ix_tryon_cleanups_until", "tryon_cleanups", ["until"])


def downgrade() -> None:
    op.drop_index("ix_tryon_cleanups_until", "tryon_cleanups")
    op.drop_index("ix_tryon_gone_hash", "tryon_gone")
    op.drop_index("ix_tryon_sessions_expires", "tryon_sessions")
    op.create_index("ix_tryon_sessions_expires", "tryon_sessions", ["expires_at"])
