"""The outbox of usage events: one row for each session that has ended.

A session is *metered* if its uploader's server had ``TRYON_USAGE_WEBHOOK_URL``. Its
event is inserted in the transaction that ends it, so no moment in which a process dies
can lose it, and it survives the session's erasure. A row goes when the receiver has
accepted it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import tables
from server.adapters.database.changes import SavedUsage, Usage
from server.adapters.database.engine import Connections
from server.adapters.database.rows import EVENT_COLUMNS, to_event
from server.adapters.database.tables import database_time, statement_time
from server.domain.session import AuditEvent, Session
from server.domain.usage_events import usage_body, usage_event
from tryon.protocol.states import GoneReason, Status

METERED: Final = 1
"""A session whose end is to be told; it has not been."""
TOLD: Final = 2
"""A metered session that was deleted: if it had not ended, its event was inserted."""

_u: Final = tables.usage_events.c


class Ended(NamedTuple):
    """A session that has ended: how, when, and the bytes of its files.

    ``unfinished``: the usage of an attempt that no event has ended.
    """

    session: Session
    status: str
    ended_at: datetime
    stored_bytes: int
    unfinished: Usage | None = None


def cut_short(
    rows: Iterable[tuple[Session, bool, int, str | None]], reason: GoneReason, usage: SavedUsage | None
) -> list[Ended]:
    """Return the metered sessions that are erased before their end.

    ``rows``: sessions, whether their end is to be told now, their files' bytes, and
    their encrypted checkpoints. ``usage``: returns what attempts that run have used.
    """
    ended = []
    for session, metered, stored_bytes, checkpoint in rows:
        if metered and not session.status.terminal:
            used = None
            if usage is not None and checkpoint is not None and session.status is Status.PROCESSING:
                used = usage(checkpoint, session.attempt)
            ended.append(Ended(session, reason.value, session.expires_at, stored_bytes, used))
    return ended


async def add_usage_events(connection: AsyncConnection, ended: Sequence[Ended]) -> None:
    """Insert the events of sessions that end in this transaction."""
    if not ended:
        return
    events = tables.events.c
    ids = [each.session.id for each in ended]
    rows = await connection.execute(
        select(*EVENT_COLUMNS).where(events.session_id.in_(ids)).order_by(events.session_id, events.seq)
    )
    trails: dict[str, list[AuditEvent]] = {}
    for row in rows:
        event = to_event(row)
        trails.setdefault(event.session_id, []).append(event)
    told = [
        usage_event(
            each.session,
            trails.get(each.session.id, ()),
            status=each.status,
            ended_at=each.ended_at,
            stored_bytes=each.stored_bytes,
            unfinished=each.unfinished,
        )
        for each in ended
    ]
    values = [{"id": event.id, "body": usage_body(event).decode(), "attempts": 0} for event in told]
    await connection.execute(
        insert(tables.usage_events).values(created_at=database_time(), next_at=database_time()), values
    )


class Untold(NamedTuple):
    """A usage event that is due."""

    id: str
    body: str
    attempts: int


class UsageOutbox:
    """The usage events that no receiver has accepted. Methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<UsageOutbox of {self._connections!r}>"

    async def due(self, *, limit: int) -> list[Untold]:
        """Return events that are due, the longest due first."""
        query = (
            select(_u.id, _u.body, _u.attempts)
            .where(_u.next_at <= statement_time())
            .order_by(_u.next_at, _u.id)
            .limit(limit)
        )
        async with self._connections.read() as connection:
            return [Untold(*row) for row in await connection.execute(query)]

    async def begin(self, event: Untold, *, pause_seconds: float) -> bool:
        """Count an attempt before it is made; the next is due after the pause.

        Return False if another process makes this one.
        """
        own = and_(_u.id == event.id, _u.attempts == event.attempts)
        async with self._connections.write() as connection:
            result = await connection.execute(
                update(tables.usage_events)
                .where(own)
                .values(attempts=event.attempts + 1, next_at=database_time(pause_seconds))
            )
        return result.rowcount == 1

    async def remove(self, event_id: str) -> None:
        """Remove an event that the receiver has accepted."""
        async with self._connections.write() as connection:
            await connection.execute(delete(tables.usage_events).where(_u.id == event_id))

    async def remove_older(self, seconds: float) -> int:
        """Remove events that no receiver accepted for so long; return how many."""
        async with self._connections.write() as connection:
            result = await connection.execute(
                delete(tables.usage_events).where(_u.created_at <= statement_time(-seconds))
            )
        return result.rowcount
