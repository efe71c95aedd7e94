"""Stored bytes and the hash of the client's address, of each session.

Sessions of the release before count no bytes. Writers wait while the indexes are made.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tryon_sessions", sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("tryon_sessions", sa.Column("address_hash", sa.String(32)))
    op.create_index("ix_tryon_sessions_owner_bytes", "tryon_sessions", ["owner", "stored_bytes"])
    op.create_index("ix_tryon_sessions_address_bytes", "tryon_sessions", ["address_hash", "stored_bytes"])


def downgrade() -> None:
    op.drop_index("ix_tryon_sessions_address_bytes", "tryon_sessions")
    op.drop_index("ix_tryon_sessions_owner_bytes", "tryon_sessions")
    op.drop_column("tryon_sessions", "address_hash")
    op.drop_column("tryon_sessions", "stored_bytes")
