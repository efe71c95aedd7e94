"""Sessions, their audit trail, tombstones and named leases.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _at(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _position() -> sa.Column[int]:
    return sa.Column(
        "position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True
    )


def upgrade() -> None:
    op.create_table(
        "tryon_sessions",
        sa.Column("id", sa.Uuid(as_uuid=False), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("burnt", sa.Integer(), nullable=False),
        sa.Column("enqueues", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(128)),
        _at("lease_expires_at", nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("processor", sa.String(200), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("input_key", sa.String(200), nullable=False),
        sa.Column("garment_key", sa.String(200)),
        sa.Column("output_key", sa.String(200)),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.String(500)),
        sa.Column("error_retryable", sa.Boolean(), nullable=False),
        sa.Column("retry_of", sa.Uuid(as_uuid=False)),
        sa.Column("request_id", sa.String(64)),
        sa.Column("idempotency_key", sa.String(64)),
        sa.Column("idempotency_fingerprint", sa.String(64)),
        _at("created_at"),
        _at("updated_at"),
        _at("finished_at", nullable=True),
        _at("deadline_at"),
        _at("expires_at"),
        _at("delivered_at", nullable=True),
        sa.UniqueConstraint("retry_of", name="uq_tryon_sessions_retry_of"),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_tryon_sessions_owner_idempotency"),
    )
    op.create_index("ix_tryon_sessions_owner_created", "tryon_sessions", ["owner", "created_at", "id"])
    op.create_index("ix_tryon_sessions_status_lease", "tryon_sessions", ["status", "lease_expires_at"])
    op.create_index("ix_tryon_sessions_expires", "tryon_sessions", ["expires_at"])
    op.create_table(
        "tryon_events",
        _position(),
        sa.Column("xact", sa.BigInteger()),
        sa.Column("session_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("from_status", sa.String(16)),
        sa.Column("status", sa.String(16), nullable=False),
        _at("at"),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.UniqueConstraint("session_id", "seq", name="uq_tryon_events_session_seq"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tryon_gone",
        _position(),
        sa.Column("xact", sa.BigInteger()),
        sa.Column("id_hash", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        _at("at"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tryon_gone_at", "tryon_gone", ["at"])
    op.create_table(
        "tryon_leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        _at("expires_at"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.create_index("ix_tryon_events_xact", "tryon_events", ["xact"])
        op.create_index("ix_tryon_gone_xact", "tryon_gone", ["xact"])


def downgrade() -> None:
    for table in ("tryon_leases", "tryon_gone", "tryon_events", "tryon_sessions"):
        op.drop_table(table)
