"""The tables, and the types and functions that both databases share.

``tryon_sessions`` is the truth about every session, ``tryon_files`` names its files,
``tryon_events`` is its audit trail and event log, ``tryon_gone`` holds the tombstones
of erased sessions for two minutes, ``tryon_deliveries`` the webhooks of sessions,
``tryon_usage`` what ended ones have used, ``tryon_quotas`` a day's uploads,
``tryon_leases`` lets one process at a time do a chore, ``tryon_processors`` holds what
workers say of their processors, ``tryon_operator_actions`` what operators did.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    literal,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

REVISION: Final = "0014"
"""The migration that these tables need: the newest one."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on both databases.

    SQLite drops time zones, so naive values are refused on the way in.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class database_time(FunctionElement[datetime]):
    """The present time of the database's clock, which all machines share.

    ``offset_seconds`` is added to it. PostgreSQL reads it with ``clock_timestamp()``:
    its ``now()`` returns the time at which the transaction began.
    """

    type = UtcDateTime()
    inherit_cache = True
    name = "database_time"

    def __init__(self, offset_seconds: float | ColumnElement[Any] = 0.0) -> None:
        offset = offset_seconds if isinstance(offset_seconds, ColumnElement) else literal(float(offset_seconds), Float)
        super().__init__(offset)


class statement_time(database_time):
    """The time at which the database received this statement, for finding rows by it.

    An index on PostgreSQL is searched only for a value that stands still during the
    statement (volatility STABLE, PostgreSQL 18 section 36.7); beside
    ``clock_timestamp()``, which does not, every row is read and compared.

    Not for an update: it may wait for a row's lock, and what the holder of the lock
    wrote must be judged by the time after the wait. A session that is deleted meanwhile
    expires after the statement began, and would still seem to live.
    """

    inherit_cache = True
    name = "statement_time"


@compiles(database_time, "sqlite")
@compiles(statement_time, "sqlite")
def _sqlite_time(element: database_time, compiler: SQLCompiler, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    # Six fractional digits, as SQLAlchemy stores a DateTime: text of one shape sorts by
    # time.
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', ({offset}) || ' seconds') || '000')"


@compiles(database_time, "postgresql")
def _postgresql_time(element: database_time, compiler: SQLCompiler, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + make_interval(secs => {offset}))"


@compiles(statement_time, "postgresql")
def _postgresql_statement_time(element: statement_time, compiler: SQLCompiler, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    return f"(statement_timestamp() + make_interval(secs => {offset}))"


metadata = MetaData()

_WHERE_UNFINISHED: Final[dict[str, Any]] = {
    f"{dialect}_where": text("finished_at IS NULL") for dialect in ("sqlite", "postgresql")
}

_WHERE_UNDELIVERED: Final[dict[str, Any]] = {
    f"{dialect}_where": text("delivered_at IS NULL") for dialect in ("sqlite", "postgresql")
}

sessions: Final = Table(
    "tryon_sessions",
    metadata,
    Column("id", Uuid(as_uuid=False), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("burnt", Integer, nullable=False),
    Column("enqueues", Integer, nullable=False),
    Column("lease_owner", String(128)),
    Column("lease_expires_at", UtcDateTime),
    Column("cancel_requested", Boolean, nullable=False),
    Column("processor", String(200), nullable=False),
    Column("params", Text, nullable=False),
    Column("seed", Integer, nullable=False, server_default="0"),
    Column("checkpoint", Text),  # encrypted
    Column("error_code", String(64)),
    Column("error_message", String(500)),
    Column("error_retryable", Boolean, nullable=False),
    Column("retry_of", Uuid(as_uuid=False)),
    Column("copy_of", Uuid(as_uuid=False)),
    Column("request_id", String(64)),
    Column("trace", String(55)),  # traceparent of the upload
    Column("idempotency_key", String(64)),  # hash of the key
    Column("idempotency_fingerprint", String(64)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("deadline_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),  # of all its files
    Column("address_hash", String(32)),  # HMAC of the client's address
    Column("metered", Integer, nullable=False, server_default="0"),  # see usage_events
    Index("ix_tryon_sessions_owner_created", "owner", "created_at", "id"),
    Index("ix_tryon_sessions_owner_bytes", "owner", "stored_bytes"),
    Index("ix_tryon_sessions_address_bytes", "address_hash", "stored_bytes"),
    Index("ix_tryon_sessions_status_lease", "status", "lease_expires_at"),
    Index("ix_tryon_sessions_expires", "expires_at", "id"),
    Index("ix_tryon_sessions_deadline", "deadline_at", **_WHERE_UNFINISHED),
    Index("ix_tryon_sessions_copy_of", "copy_of"),
    UniqueConstraint("retry_of", name="uq_tryon_sessions_retry_of"),
    UniqueConstraint("owner", "idempotency_key", name="uq_tryon_sessions_owner_idempotency"),
)

files: Final = Table(
    "tryon_files",
    metadata,
    Column("session_id", Uuid(as_uuid=False), primary_key=True),
    Column("direction", String(8), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("role", String(32), nullable=False),
    Column("index", Integer, nullable=False),
    Column("key", String(200), nullable=False),
    Column("type", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    sqlite_with_rowid=False,  # a session's files lie together, in their order
)

events: Final = Table(
    "tryon_events",
    metadata,
    # Follows commit order on SQLite (one writer, AUTOINCREMENT never reuses); on
    # PostgreSQL `xact` helps the reader.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("xact", BigInteger),
    Column("session_id", Uuid(as_uuid=False), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("event", String(16), nullable=False),
    Column("from_status", String(16)),
    Column("status", String(16), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("data", Text, nullable=False),
    UniqueConstraint("session_id", "seq", name="uq_tryon_events_session_seq"),
    Index("ix_tryon_events_xact", "xact").ddl_if(dialect="postgresql"),
    sqlite_autoincrement=True,
)

tombstones: Final = Table(
    "tryon_gone",
    metadata,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("xact", BigInteger),
    Column("id_hash", String(64), nullable=False),
    Column("reason", String(16), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_tryon_gone_at", "at"),
    Index("ix_tryon_gone_hash", "id_hash"),
    Index("ix_tryon_gone_xact", "xact").ddl_if(dialect="postgresql"),
    sqlite_autoincrement=True,
)

deliveries: Final = Table(
    "tryon_deliveries",
    metadata,
    Column("session_id", Uuid(as_uuid=False), primary_key=True),
    Column("url", String(1000), nullable=False),  # empty: that of the settings
    Column("next_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("delivered_at", UtcDateTime),
    Index("ix_tryon_deliveries_next", "next_at", **_WHERE_UNDELIVERED),
)

usage_events: Final = Table(
    "tryon_usage",
    metadata,
    Column("id", String(64), primary_key=True),  # follows from the session's
    Column("body", Text, nullable=False),  # JSON
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Index("ix_tryon_usage_next", "next_at"),
)

quotas: Final = Table(
    "tryon_quotas",
    metadata,
    Column("subject", String(32), primary_key=True),  # HMAC of an owner or an address
    Column("day", Integer, primary_key=True, autoincrement=False),  # from 1970, in UTC
    Column("uploads", Integer, nullable=False),
    Index("ix_tryon_quotas_day", "day"),
)

cleanups: Final = Table(
    "tryon_cleanups",
    metadata,
    Column("id", String(32), primary_key=True),  # random: nothing leads to the session
    Column("kind", String(8), nullable=False),
    Column("work", Text, nullable=False),  # encrypted
    Column("until", UtcDateTime, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Index("ix_tryon_cleanups_next", "next_at"),
    Index("ix_tryon_cleanups_until", "until"),
)

leases: Final = Table(
    "tryon_leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

processors: Final = Table(
    "tryon_processors",
    metadata,
    Column("worker", String(200), primary_key=True),
    Column("setting", String(500), nullable=False),  # TRYON_PROCESSOR
    Column("description", Text, nullable=False),  # JSON
    Column("published_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),  # of the worker's lease
)


operator_actions: Final = Table(
    "tryon_operator_actions",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("operator", String(8), nullable=False),  # of the token's hash
    Column("action", String(16), nullable=False),
    Column("session_hash", String(64), nullable=False),  # HMAC of the id, as in tryon_gone
    Column("outcome", String(64), nullable=False),
    Column("request_id", String(64)),
    Index("ix_tryon_operator_actions_at", "at"),
    sqlite_autoincrement=True,
)


class json_rows(FunctionElement[str]):
    """The rows of a query as one JSON array, each an array of these columns.

    NULL or ``[]`` if there are none; in no order.
    """

    type = Text()
    inherit_cache = True
    name = "json_rows"


@compiles(json_rows, "sqlite")
def _sqlite_json_rows(element: json_rows, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_array(json_array({compiler.process(element.clauses, **options)}))"


@compiles(json_rows, "postgresql")
def _postgresql_json_rows(element: json_rows, compiler: SQLCompiler, **options: Any) -> str:
    return f"(json_agg(json_build_array({compiler.process(element.clauses, **options)}))::text)"


class current_xact(FunctionElement[int]):
    """The running transaction's id (``pg_current_xact_id``); NULL on SQLite.

    SQLite has one writer and needs none.
    """

    type = BigInteger()
    inherit_cache = True
    name = "current_xact"


class current_snapshot(FunctionElement[str]):
    """The transactions that have not ended, as text (``pg_current_snapshot``).

    For PostgreSQL alone.
    """

    type = Text()
    inherit_cache = True
    name = "current_snapshot"


@compiles(current_xact, "postgresql")
def _current_xact(element: current_xact, compiler: SQLCompiler, **options: Any) -> str:
    return "(pg_current_xact_id()::text::bigint)"


@compiles(current_snapshot, "postgresql")
def _current_snapshot(element: current_snapshot, compiler: SQLCompiler, **options: Any) -> str:
    return "(pg_current_snapshot()::text)"


@compiles(current_xact, "sqlite")
def _no_xact(element: FunctionElement[int], compiler: SQLCompiler, **options: Any) -> str:
    return "NULL"
