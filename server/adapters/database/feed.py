"""The feed of everything committed: events and tombstones, in commit order.

A web process reads it every few seconds, and after a loss of Redis, so that a message
that Redis lost is late, not missing.

Theory of operation. A reader holds a cursor and asks for everything behind it. Wall
times cannot be the cursor: a commit that stalls becomes visible with a time that was
passed long ago. A position must therefore follow the order in which commits become
*visible*, and the two databases give it differently.

SQLite has one writer. A row's position (AUTOINCREMENT, never reused) is given under the
write lock, which is held until the commit; positions become visible in their order.
The cursor is the highest position read.

PostgreSQL gives a position before the commit, so of two transactions the later position
may be visible first, and a reader that remembers the highest position would step over
the earlier one for ever::

    writer A   begin, position 7 .................. commit
    writer B            begin, position 8, commit
    reader                                  ^ sees 8 only; 7 must not be lost

So each row carries its transaction's id (``xact``), and the cursor is the oldest
transaction that was still open at the last reading (``pg_snapshot_xmin``, PostgreSQL 18
section 9.28): every transaction below it had ended and was visible. The next page holds
every row from that transaction on, which may be some rows again; the hub drops them by
their seq, as it does with every repeated event.

The horizon is read *before* the rows. A transaction that commits in between is read now
and again next time; in the other order it could be missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.sql import ColumnElement

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.rows import EVENT_COLUMNS, to_event
from server.adapters.database.tables import oldest_open_xact
from server.domain.session import AuditEvent
from tryon.protocol.states import GoneReason


@dataclass(frozen=True, slots=True)
class Cursor:
    """A reader's place in the feed: positions on SQLite, ``xact`` on PostgreSQL."""

    event_position: int
    tombstone_position: int
    xact: int


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Everything committed behind a cursor; on PostgreSQL perhaps some of it again."""

    events: list[AuditEvent]
    """In commit order within each session."""
    tombstones: list[tuple[str, GoneReason]]
    """Pairs of (hash of the id, reason)."""
    cursor: Cursor


def _page(new_events: ColumnElement[bool], new_tombstones: ColumnElement[bool]) -> tuple[Select[Any], Select[Any]]:
    events, tombstones = tables.events.c, tables.tombstones.c
    return (
        select(*EVENT_COLUMNS, events.position).where(new_events).order_by(events.position),
        select(tombstones.id_hash, tombstones.reason, tombstones.position).where(new_tombstones),
    )


_PAGE_SQLITE: Final = _page(
    tables.events.c.position > bindparam("event_position"),
    tables.tombstones.c.position > bindparam("tombstone_position"),
)
_PAGE_POSTGRESQL: Final = _page(
    tables.events.c.xact >= bindparam("since_xact"), tables.tombstones.c.xact >= bindparam("since_xact")
)
_HORIZON: Final = select(oldest_open_xact())


class Feed:
    """The feed of one database; see the theory of operation above.

    Guarantee: an event or tombstone that is committed after a cursor was made is on one
    of the pages read from there, at least once. All methods raise Unavailable.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._sqlite = connections.sqlite

    def __repr__(self) -> str:
        return f"<Feed of {self._connections!r}>"

    async def cursor(self) -> Cursor:
        """Return the end of the feed: everything committed before lies behind it."""
        last_event = select(func.max(tables.events.c.position)).scalar_subquery()
        last_tombstone = select(func.max(tables.tombstones.c.position)).scalar_subquery()
        end = select(
            func.coalesce(last_event, 0), func.coalesce(last_tombstone, 0), func.coalesce(oldest_open_xact(), 0)
        )
        async with self._connections.read() as connection:
            return Cursor(*(await connection.execute(end)).one())

    async def page(self, cursor: Cursor) -> FeedPage:
        """Return everything committed since ``cursor``, and the cursor after it."""
        horizon = await self._horizon() if not self._sqlite else 0
        async with self._connections.read() as connection:
            if self._sqlite:
                new_events, new_tombstones = _PAGE_SQLITE
                positions = (cursor.event_position, cursor.tombstone_position)
                events = (await connection.execute(new_events, {"event_position": positions[0]})).all()
                tombstones = (await connection.execute(new_tombstones, {"tombstone_position": positions[1]})).all()
            else:
                new_events, new_tombstones = _PAGE_POSTGRESQL
                events = (await connection.execute(new_events, {"since_xact": cursor.xact})).all()
                tombstones = (await connection.execute(new_tombstones, {"since_xact": cursor.xact})).all()
        return FeedPage(
            [to_event(row) for row in events],
            [(row[0], GoneReason(row[1])) for row in tombstones],
            Cursor(
                max((row[-1] for row in events), default=cursor.event_position),
                max((row[-1] for row in tombstones), default=cursor.tombstone_position),
                horizon,
            ),
        )

    async def _horizon(self) -> int:
        """Read the oldest open transaction; the caller reads the rows after it."""
        async with self._connections.read() as connection:
            return int((await connection.execute(_HORIZON)).scalar_one())
