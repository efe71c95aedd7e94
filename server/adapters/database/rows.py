"""Rows to values: the columns that are read, and the queries that parts share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import insert, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from server.adapters.database import tables
from server.adapters.database.tables import database_time, json_rows
from server.domain.session import AuditEvent, Session
from server.domain.stored_files import StoredFile
from tryon.protocol.states import Event, Status

FILE_COLUMNS: Final = [tables.files.c[name] for name in StoredFile.__struct_fields__]

_FILES: Final = (
    select(json_rows(*FILE_COLUMNS))
    .where(tables.files.c.session_id == tables.sessions.c.id)
    .correlate(tables.sessions)
    .scalar_subquery()
    .label("files")
)
"""A session's files, read by the statement that reads or changes its row."""


def session_columns(files: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """Return the columns of a session in the order of its fields."""
    return [files if name == "files" else tables.sessions.c[name] for name in Session.__dataclass_fields__]


SESSION_COLUMNS: Final = session_columns(_FILES)
ROW_COLUMNS: Final = session_columns(literal_column("NULL").label("files"))
"""The columns of :data:`SESSION_COLUMNS`, with null in place of the files."""

EVENT_COLUMNS: Final = [tables.events.c[name] for name in AuditEvent.__dataclass_fields__]

LIVING: Final = tables.sessions.c.expires_at > database_time()
"""An expired session is unreadable at its time, even while its row awaits erasure."""

UNFINISHED: Final = tables.sessions.c.finished_at.is_(None)
"""A session that waits or runs: the same as by its state, and how an index knows it."""

_decode = msgspec.json.decode
_decode_files: Final = msgspec.json.Decoder(list[StoredFile]).decode


def to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def to_session(row: Sequence[Any]) -> Session:
    """Build a session from a row that begins with :data:`SESSION_COLUMNS`.

    From one with :data:`ROW_COLUMNS` it has no files.
    """
    values = dict(zip(Session.__dataclass_fields__, row, strict=False))
    values["status"] = Status(values["status"])
    values["params"] = _decode(values["params"])
    values["files"] = tuple(sorted(_decode_files(values["files"]))) if values["files"] else ()
    return Session(**values)


def to_file(row: Sequence[Any]) -> StoredFile:
    """Build a file from a row with :data:`FILE_COLUMNS`."""
    return msgspec.convert(row, StoredFile)


def to_event(row: Sequence[Any]) -> AuditEvent:
    """Build an event from a row that begins with :data:`EVENT_COLUMNS`."""
    values = dict(zip(AuditEvent.__dataclass_fields__, row, strict=False))
    values["event"] = Event(values["event"])
    values["from_status"] = None if values["from_status"] is None else Status(values["from_status"])
    values["status"] = Status(values["status"])
    values["data"] = _decode(values["data"])
    return AuditEvent(**values)


_INSERT_FILE: Final = insert(tables.files)


async def add_files(connection: AsyncConnection, session_id: str, files: Collection[StoredFile]) -> None:
    """Insert the rows of a session's new files."""
    if files:
        rows = [{"session_id": session_id} | msgspec.structs.asdict(file) for file in files]
        await connection.execute(_INSERT_FILE, rows)


async def family_of(connection: AsyncConnection, session_id: str) -> list[str]:
    """Return the ids of all sessions over the same photo, this one included."""
    table = tables.sessions.c
    chain = select(table.id, table.retry_of).where(table.id == session_id).cte("family", recursive=True)
    # UNION, not UNION ALL: each row once ends the walk, whichever way it goes.
    chain = chain.union(
        select(table.id, table.retry_of).where(
            or_(table.retry_of == chain.c.id, table.id == chain.c.retry_of, table.copy_of == chain.c.id)
        )
    )
    return [str(row) for row in (await connection.execute(select(chain.c.id))).scalars()]
