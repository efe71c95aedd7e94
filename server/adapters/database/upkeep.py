"""Deletes what an erasure leaves: SQLite's log, stray events, old tombstones."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, select

from server.adapters.database import engine, tables, tombstones
from server.adapters.database.engine import Connections
from server.adapters.database.tables import database_time

SCRUB_BUSY_MS: Final = 100
"""Maximum wait for readers of SQLite's write-ahead log, while writers wait too; then
the scrub is tried again later.
"""


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
        """Delete events that belong to no session, and return how many; normally 0."""
        async with self._connections.write() as connection:
            result = await connection.execute(
                delete(tables.events).where(tables.events.c.session_id.not_in(select(tables.sessions.c.id)))
            )
        return result.rowcount

    async def delete_old_tombstones(self) -> int:
        """Delete tombstones older than ``TOMBSTONE_SECONDS``, and return how many."""
        async with self._connections.write() as connection:
            result = await connection.execute(
                delete(tables.tombstones).where(tables.tombstones.c.at <= database_time(-tombstones.TOMBSTONE_SECONDS))
            )
        return result.rowcount
