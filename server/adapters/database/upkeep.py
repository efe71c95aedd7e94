"""Deletes what an erasure leaves: SQLite's log, stray events, old tombstones."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, exists, func, select

from server.adapters.database import engine, tables, tombstones
from server.adapters.database.engine import Connections
from server.adapters.database.tables import statement_time

SCRUB_BUSY_MS: Final = 100
"""Maximum wait for readers of SQLite's write-ahead log, while writers wait too; then
the scrub is tried again later.
"""

EVENTS_A_SEARCH: Final = 20_000
"""Events among which strays are searched at a time; takes some 25 ms."""

STRAYS_A_STATEMENT: Final = 500
"""Maximum events deleted in one statement; both databases have limits."""

TOMBSTONES_AT_ONCE: Final = 500
"""Maximum tombstones deleted in one transaction, which takes some milliseconds."""

_e: Final = tables.events
_t: Final = tables.tombstones.c


class Upkeep:
    """The chores of the database itself. Methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<Upkeep of {self._connections!r}>"

    async def scrub(self) -> bool:
        """Empty SQLite's write-ahead log, which holds pages from before an erasure.

        Return False if a reader was using it: try again. PostgreSQL recycles its log by
        its own rules; there this returns True at once. Writers wait for the last pages
        alone: the log is copied, and the disk waited for, beside them before.
        """
        if not self._connections.sqlite:
            return True
        async with self._connections.read() as connection:
            (await connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")).close()
            await connection.exec_driver_sql(f"PRAGMA busy_timeout={SCRUB_BUSY_MS}")
            try:
                async with self._connections.writers_turn():
                    busy = (await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")).scalar_one()
                    self._connections.make_room()  # at once: the blocks of the log are free now
            finally:
                if not connection.invalidated:  # else the pool drops it
                    await connection.exec_driver_sql(f"PRAGMA busy_timeout={int(engine.BUSY_SECONDS * 1000)}")
        return not busy

    async def delete_stray_events(self) -> int:
        """Delete events that belong to no session, and return how many; normally 0.

        Every event is looked at, so this is done in parts, and without a lock: writers
        on SQLite need not wait for it, and no part takes as long as a lost connection.
        """
        after, count = 0, 0
        while (end := await self._end_of_part(after)) is not None:
            strays = await self._stray_events(after, end)
            for start in range(0, len(strays), STRAYS_A_STATEMENT):
                some = strays[start : start + STRAYS_A_STATEMENT]
                async with self._connections.write() as connection:
                    await connection.execute(delete(_e).where(_e.c.position.in_(some)))
            after, count = end, count + len(strays)
        return count

    async def _end_of_part(self, after: int) -> int | None:
        """Return the position of the last of some events after this one, if any."""
        part = select(_e.c.position).where(_e.c.position > after).order_by(_e.c.position).limit(EVENTS_A_SEARCH)
        async with self._connections.read() as connection:
            end: int | None = (await connection.execute(select(func.max(part.subquery().c.position)))).scalar_one()
        return end

    async def _stray_events(self, after: int, end: int) -> list[int]:
        # NOT IN would compare each with each once PostgreSQL has no memory for a hash.
        owned = exists().where(tables.sessions.c.id == _e.c.session_id)
        strays = select(_e.c.position).where(_e.c.position > after, _e.c.position <= end, ~owned)
        async with self._connections.read() as connection:
            return list((await connection.execute(strays)).scalars())

    async def delete_old_tombstones(self) -> int:
        """Delete tombstones older than ``TOMBSTONE_SECONDS``, and return how many.

        The oldest, and not more than :data:`TOMBSTONES_AT_ONCE`: call it again while it
        returns as many. Those that another process deletes meanwhile are left to it.
        """
        old = (
            select(_t.position)
            .where(_t.at <= statement_time(-tombstones.TOMBSTONE_SECONDS))
            .order_by(_t.at)
            .limit(TOMBSTONES_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        async with self._connections.write() as connection:
            result = await connection.execute(delete(tables.tombstones).where(_t.position.in_(old)))
        return result.rowcount
