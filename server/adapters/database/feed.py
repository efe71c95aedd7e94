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

So each row carries its transaction's id (``xact``), and the cursor is a snapshot: the
transactions that had not ended when it was taken (``pg_current_snapshot``, PostgreSQL
18 section 9.28), which are a few by name and all from some id on. The next page takes
a new snapshot and holds the rows of the transactions that ended between the two::

    cursor     open {7}, from 9      7 is open; 1 to 6 and 8 have ended
    page       open {11}, from 13    rows of 7, 9, 10 and 12

What a page costs is what was committed since the last one. The oldest open transaction
alone (``pg_snapshot_xmin``) is no cursor: it counts the transactions of every database
of the cluster, and while one of them stays open everything after it is read again.

The snapshot is taken *before* the rows are read. A transaction that commits in between
may be read now and again next time; in the other order it could be missed. The hub
drops repeats by their seq.

A page has :data:`PAGE_ROWS` rows, and the cursor resumes within what was committed: on
PostgreSQL the oldest transactions come first, each as a whole, and the cursor stops
after the last of them. Two events of one session may then be on two pages in the wrong
order, as a transaction may get its id before it waits for the session's lock; a
follower reports the hole and reads what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import BigInteger, Integer, Row, Select, any_, bindparam, func, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.selectable import CompoundSelect

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.rows import EVENT_COLUMNS, to_event
from server.adapters.database.tables import current_snapshot
from server.domain.session import AuditEvent
from tryon.protocol.states import GoneReason

PAGE_ROWS: Final = 1000
"""Events of a page, and its tombstones; making the events takes up to 10 ms.

On PostgreSQL no transaction is divided, and those that were open at the last page come
on top. One has at most 100 events (a page of time-outs) or 1,000 tombstones (a pass of
the expiry).
"""


Follows: TypeAlias = Callable[[str], bool]
"""Returns whether a reader follows the session with this id."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A reader's place in the feed: positions on SQLite, a snapshot on PostgreSQL."""

    event_position: int = 0
    tombstone_position: int = 0
    from_xact: int = 0
    """Every transaction below this was read, or wrote nothing, or is in ``open``."""
    open: tuple[int, ...] = ()
    """Transactions below ``from_xact`` that had not ended."""


@dataclass(frozen=True, slots=True)
class FeedPage:
    """The events and tombstones committed behind a cursor, or a part of them."""

    events: list[AuditEvent]
    """In commit order within each session, from page to page on SQLite alone.

    Those of sessions that the reader follows.
    """
    created: list[str]
    """Sessions whose first event is on the page, followed or not."""
    tombstones: list[tuple[str, GoneReason]]
    """Pairs of (hash of the id, reason)."""
    cursor: Cursor
    more: bool
    """Whether the page was full, and the next one should be read at once."""


_EVENTS: Final = (*EVENT_COLUMNS, tables.events.c.position, tables.events.c.xact)
_TOMBSTONES: Final = tuple(tables.tombstones.c[name] for name in ("id_hash", "reason", "position", "xact"))
_MOST: Final = bindparam("most", type_=Integer)


def _behind_position(columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    position = columns[-2]
    return select(*columns).where(position > bindparam("position", type_=Integer)).order_by(position).limit(_MOST)


def _ended_between(columns: Sequence[ColumnElement[Any]]) -> CompoundSelect[Any]:
    """Select the rows of transactions that were open, and of the oldest that were not.

    Two searches of the index on ``xact``: with OR, all rows would be read and sorted.
    """
    xact = columns[-1]
    were_open = select(*columns).where(xact == any_(bindparam("ended", type_=ARRAY(BigInteger))))
    begun_since = (
        select(*columns)
        .where(xact >= bindparam("from_xact", type_=BigInteger), xact < bindparam("until_xact", type_=BigInteger))
        .order_by(xact)
        .fetch(_MOST, with_ties=True)
    )
    return union_all(were_open, begun_since).order_by("position")


_EVENTS_SQLITE: Final = _behind_position(_EVENTS)
_TOMBSTONES_SQLITE: Final = _behind_position(_TOMBSTONES)
_EVENTS_POSTGRESQL: Final = _ended_between(_EVENTS)
_TOMBSTONES_POSTGRESQL: Final = _ended_between(_TOMBSTONES)
_SNAPSHOT: Final = select(current_snapshot())


class Feed:
    """The feed of one database; see the theory of operation above.

    Guarantee: an event or tombstone that is committed after a cursor was made is on one
    of the pages read from there, at least once. All methods raise Unavailable.

    Not held where PostgreSQL gives out transaction ids a second time: after a fail-over
    to a standby that lacked the last commits, or a crash that lost ids of aborted
    transactions. Rows under such an id are seen by the check of each followed session,
    within a minute, if their message was lost, too.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._sqlite = connections.sqlite

    def __repr__(self) -> str:
        return f"<Feed of {self._connections!r}>"

    async def cursor(self) -> Cursor:
        """Return the end of the feed: everything committed before lies behind it."""
        async with self._connections.read() as connection:
            if not self._sqlite:
                return await _snapshot(connection)
            last_event = select(func.max(tables.events.c.position)).scalar_subquery()
            last_tombstone = select(func.max(tables.tombstones.c.position)).scalar_subquery()
            end = select(func.coalesce(last_event, 0), func.coalesce(last_tombstone, 0))
            return Cursor(*(await connection.execute(end)).one())

    async def page(self, cursor: Cursor, *, follows: Follows | None = None) -> FeedPage:
        """Return what was committed since ``cursor``, oldest first, and the new one.

        ``follows``: whether the reader wants the events of a session; None: of all.
        Every web process reads every row, and making the events is the larger part of
        that.
        """
        async with self._connections.read() as connection:
            if self._sqlite:
                return await _page_of_sqlite(connection, cursor, follows)
            return await _page_of_postgresql(connection, cursor, follows)


async def _page_of_sqlite(connection: AsyncConnection, cursor: Cursor, follows: Follows | None) -> FeedPage:
    after = {"position": cursor.event_position, "most": PAGE_ROWS}
    events = (await connection.execute(_EVENTS_SQLITE, after)).all()
    after = {"position": cursor.tombstone_position, "most": PAGE_ROWS}
    tombstones = (await connection.execute(_TOMBSTONES_SQLITE, after)).all()
    behind = Cursor(
        event_position=events[-1].position if events else cursor.event_position,
        tombstone_position=tombstones[-1].position if tombstones else cursor.tombstone_position,
    )
    return _to_page(events, tombstones, behind, follows, more=max(len(events), len(tombstones)) >= PAGE_ROWS)


async def _page_of_postgresql(connection: AsyncConnection, cursor: Cursor, follows: Follows | None) -> FeedPage:
    now = await _snapshot(connection)  # each statement here is a transaction of its own
    wanted = {
        "ended": sorted(set(cursor.open).difference(now.open)),
        "from_xact": cursor.from_xact,
        "until_xact": now.from_xact,
        "most": PAGE_ROWS,
    }
    events = (await connection.execute(_EVENTS_POSTGRESQL, wanted)).all()
    tombstones = (await connection.execute(_TOMBSTONES_POSTGRESQL, wanted)).all()
    # A full part ends with its last transaction; the other part may have read further.
    ends = [end for end in (_end(events, cursor), _end(tombstones, cursor)) if end is not None]
    from_xact = min((now.from_xact, *ends))
    behind = Cursor(from_xact=from_xact, open=tuple(xact for xact in now.open if xact < from_xact))
    return _to_page(events, tombstones, behind, follows, more=bool(ends))


def _end(rows: Sequence[Row[Any]], cursor: Cursor) -> int | None:
    """Return the id after the last transaction of a full part, else None."""
    begun_since = [row.xact for row in rows if row.xact >= cursor.from_xact]
    return max(begun_since) + 1 if len(begun_since) >= PAGE_ROWS else None


def _to_page(
    events: Sequence[Row[Any]],
    tombstones: Sequence[Row[Any]],
    cursor: Cursor,
    follows: Follows | None,
    *,
    more: bool,
) -> FeedPage:
    return FeedPage(
        [to_event(row) for row in events if follows is None or follows(row.session_id)],
        [row.session_id for row in events if row.seq == 1],
        [(row.id_hash, GoneReason(row.reason)) for row in tombstones],
        cursor,
        more,
    )


async def _snapshot(connection: AsyncConnection) -> Cursor:
    """Read which transactions have not ended; the caller reads the rows after it.

    The text is ``xmin:xmax:xip,xip…``: every id from ``xmax`` on, and each of the list.
    Subtransactions are not in it; ``xact`` names none either.
    """
    _, xmax, xip = (await connection.execute(_SNAPSHOT)).scalar_one().split(":")
    return Cursor(from_xact=int(xmax), open=tuple(int(xact) for xact in xip.split(",") if xact))
