"""Rows to values: the columns that are read, and the queries that parts share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import tables
from server.adapters.database.tables import database_time
from server.domain.session import AuditEvent, Session
from tryon.protocol.states import Event, Status

SESSION_COLUMNS: Final = [tables.sessions.c[name] for name in Session.__dataclass_fields__]
EVENT_COLUMNS: Final = [tables.events.c[name] for name in AuditEvent.__dataclass_fields__]

LIVING: Final = tables.sessions.c.expires_at > database_time()
"""An expired session is unreadable at its time, even while its row awaits erasure."""

UNFINISHED: Final = tables.sessions.c.finished_at.is_(None)
"""A session that waits or runs: the same as by its state, and how an index knows it."""

_decode = msgspec.json.decode


def to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def to_session(row: Sequence[Any]) -> Session:
    """Build a session from a row that begins with :data:`SESSION_COLUMNS`."""
    values = dict(zip(Session.__dataclass_fields__, row, strict=False))
    values["status"] = Status(values["status"])
    values["params"] = _decode(values["params"])
    return Session(**values)


def to_event(row: Sequence[Any]) -> AuditEvent:
    """Build an event from a row that begins with :data:`EVENT_COLUMNS`."""
    values = dict(zip(AuditEvent.__dataclass_fields__, row, strict=False))
    values["event"] = Event(values["event"])
    values["from_status"] = None if values["from_status"] is None else Status(values["from_status"])
    values["status"] = Status(values["status"])
    values["data"] = _decode(values["data"])
    return AuditEvent(**values)


async def family_of(connection: AsyncConnection, session_id: str) -> list[str]:
    """Return the ids of all sessions over the same photo, this one included."""
    table = tables.sessions.c
    chain = select(table.id, table.retry_of).where(table.id == session_id).cte("family", recursive=True)
    # UNION, not UNION ALL: each row once ends the walk, whichever way it goes.
    chain = chain.union(
        select(table.id, table.retry_of).where(or_(table.retry_of == chain.c.id, table.id == chain.c.retry_of))
    )
    return [str(row) for row in (await connection.execute(select(chain.c.id))).scalars()]
