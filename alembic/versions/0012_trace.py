"""The trace of the upload, which the worker's span follows.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tryon_sessions", sa.Column("trace", sa.String(55)))


def downgrade() -> None:
    op.drop_column("tryon_sessions", "trace")
