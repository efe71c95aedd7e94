"""No keys of files in sessions: ``tryon_files`` names them.

Contract step of 0004: no code of a release that reads these columns may still run.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


FILES = (("input_key", "input", 0), ("garment_key", "input", 1), ("output_key", "output", 0))
"""Column, direction and position."""


def upgrade() -> None:
    for name, *_ in FILES:
        op.drop_column("tryon_sessions", name)


def downgrade() -> None:
    op.add_column("tryon_sessions", sa.Column("input_key", sa.String(200), nullable=False, server_default=""))
    op.add_column("tryon_sessions", sa.Column("garment_key", sa.String(200)))
    op.add_column("tryon_sessions", sa.Column("output_key", sa.String(200)))
    sessions = sa.table("tryon_sessions", sa.column("id"), *(sa.column(name) for name, *_ in FILES))
    files = sa.table("tryon_files", *(sa.column(name) for name in ("session_id", "direction", "position", "key")))
    for name, direction, position in FILES:
        own = (files.c.session_id == sessions.c.id, files.c.direction == direction, files.c.position == position)
        key = sa.select(files.c.key).where(*own).scalar_subquery()
        op.execute(sa.update(sessions).values({name: sa.func.coalesce(key, sessions.c[name])}))
