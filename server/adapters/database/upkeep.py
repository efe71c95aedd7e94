"""Deletes what an erasure leaves: SQLite's log, stray events, old tombstones."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, exists, select

from server.adapters.database import engine, tables, tombstones
from server.adapters.database.engine import Connections
from server.adapters.database.tables import statement_time

SCRUB_BUSY_MS: Final = 100
"""Maximum wait for readers of SQLite's write-ahead log, while writers wait too; then
the scrub is tried again later.
"""

STRAYS_A_STATEMENT: Final = 500
"""Maximum events deleted in one statement; both databases have limits."""


class Upkeep:
    """The chores of the database itself. Methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<Upkeep of {self._connections!r}>"

    async def scrub(self) -> bool:
        """Empty SQLite's write-ahead log, which holds pages from before an erasure.

        Return False if a reader was using it: try again. PostgreSQL recycles its log by
        its own rules; there this returns True at once.
        """
        if not self._connections.sqlite:
            return True
        async with self._connections.writers_turn(), self._connections.read() as connection:
            await connection.exec_driver_sql(f"PRAGMA busy_timeout={SCRUB_BUSY_MS}")
            try:
                busy = (await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")).scalar_one()
            finally:
                if not connection.invalidated:  # else the pool drops it
                    await connection.exec_driver_sql(f"PRAGMA busy_timeout={int(engine.BUSY_SECONDS * 1000)}")
        return not busy

    async def delete_stray_events(self) -> int:
        """Delete events that belong to no session, and return how many; normally 0.

        They are looked for without a lock: the search reads every event, and writers
        on SQLite would wait for it.
        """
        events, sessions = tables.events.c, tables.sessions.c
        # NOT IN would compare each with each once PostgreSQL has no memory for a hash.
        stray = select(events.position).where(~exists().where(sessions.id == events.session_id))
        async with self._connections.read() as connection:
            positions = list((await connection.execute(stray.order_by(events.position))).scalars())
        for start in range(0, len(positions), STRAYS_A_STATEMENT):
            some = positions[start : start + STRAYS_A_STATEMENT]
            async with self._connections.write() as connection:
                await connection.execute(delete(tables.events).where(events.position.in_(some)))
        return len(positions)

    async def delete_old_tombstones(self) -> int:
        """Delete tombstones older than ``TOMBSTONE_SECONDS``, and return how many."""
        async with self._connections.write() as connection:
            result = await connection.execute(
                delete(tables.tombstones).where(tables.tombstones.c.at <= statement_time(-tombstones.TOMBSTONE_SECONDS))
            )
        return result.rowcount
