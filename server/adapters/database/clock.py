"""The database's clock, as this process knows it: the one clock all machines share."""

from __future__ import annotations

from sqlalchemy import select

from server.adapters.database.engine import Connections
from server.adapters.database.tables import database_time
from server.system.clock import Clock


class DatabaseClock:
    """The database's time, computed from this machine's clock without a round trip.

    On SQLite the two are one. On PostgreSQL it is this machine's steady clock plus an
    offset, so that setting this machine's clock does not move it; before the first
    :meth:`synchronize` the offset is that of this machine's wall clock.
    """

    def __init__(self, connections: Connections, *, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock
        self._sqlite = connections.sqlite
        self._offset_seconds = clock.wall() - clock.steady()

    def __repr__(self) -> str:
        return f"<DatabaseClock {self.now():.3f}>"

    def now(self) -> float:
        """Return the Unix time of the database's clock, in seconds."""
        return self._clock.wall() if self._sqlite else self._clock.steady() + self._offset_seconds

    async def synchronize(self) -> None:
        """Measure the offset; its error is at most half the round trip.

        Raises Unavailable.
        """
        if self._sqlite:
            return
        before = self._clock.steady()
        async with self._connections.read() as connection:
            now = (await connection.execute(select(database_time()))).scalar_one()
        self._offset_seconds = now.timestamp() - (before + self._clock.steady()) / 2
