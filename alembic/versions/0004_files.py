"""Files of sessions as rows: any number of inputs and results, and a preview.

The keys that sessions name so far are copied; their sizes and hashes are not known.
Seeds and encrypted checkpoints of sessions. Writers wait while the rows are copied:
0.5 s at 200,000 sessions.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FILES = (
    ("input_key", "input", 0, "person"),
    ("garment_key", "input", 1, "garment"),
    ("output_key", "output", 0, "result"),
)
"""Column, direction, position and role of the files that sessions name so far."""


def upgrade() -> None:
    op.create_table(
        "tryon_files",
        sa.Column("session_id", sa.Uuid(as_uuid=False), primary_key=True),
        sa.Column("direction", sa.String(8), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.add_column("tryon_sessions", sa.Column("seed", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("tryon_sessions", sa.Column("checkpoint", sa.Text()))
    copy_keys()


def copy_keys() -> None:
    """Insert the rows of the files that sessions name."""
    sessions = sa.table("tryon_sessions", sa.column("id"), *(sa.column(name) for name, *_ in FILES))
    names = ("session_id", "direction", "position", "role", "index", "key", "type", "bytes", "sha256", "width")
    files = sa.table("tryon_files", *(sa.column(name) for name in (*names, "height")))
    for name, direction, position, role in FILES:
        key = sessions.c[name]
        media_type = sa.case((key.like("%.png"), "image/png"), (key.like("%.webp"), "image/webp"), else_="image/jpeg")
        rows = sa.select(
            sessions.c.id,
            sa.literal(direction),
            sa.literal(position),
            sa.literal(role),
            sa.literal(0),
            key,
            media_type,
            sa.literal(0),
            sa.literal(""),
            sa.literal(0),
            sa.literal(0),
        ).where(key.is_not(None))
        op.execute(sa.insert(files).from_select([*names, "height"], rows))


def downgrade() -> None:
    op.drop_column("tryon_sessions", "checkpoint")
    op.drop_column("tryon_sessions", "seed")
    op.drop_table("tryon_files")
