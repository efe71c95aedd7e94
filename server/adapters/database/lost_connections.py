"""Connections to PostgreSQL whose other end has vanished, dropped all at once.

Theory of operation. A machine that loses power, a cut network or a firewall that has
forgotten a connection sends no RST. The socket stays open, and a statement on it waits
for ever; so does the polite end of the connection. Each connection of the pool would be
found out by a time-out of its own, one after the other.

They die together, so one time-out is word for all of them: every idle connection is
aborted, and the next use opens a new one. A connection in use is left to the time-out
of its own statement, because it may be the one that lives. If the database was slow and
not gone, the price is a few new connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine

from server.system.sockets import notice_death


class LostConnections:
    """Drops the connections of one engine that may be lost. State: which are idle."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._idle: set[Any] = set()
        """Connections of SQLAlchemy's adapter in the pool that no task uses."""
        for name in ("connect", "checkout", "checkin", "invalidate", "close"):
            event.listen(engine.sync_engine, name, getattr(self, f"_on_{name}"))

    def __repr__(self) -> str:
        return f"<LostConnections idle={len(self._idle)}>"

    def drop_idle(self) -> int:
        """Abort every idle connection; return how many there were."""
        idle = list(self._idle)
        self._idle.clear()
        for connection in idle:
            connection.driver_connection.terminate()
        return len(idle)

    async def close_idle(self, seconds: float) -> None:
        """Close all idle connections at once; after ``seconds`` they are aborted."""
        idle = list(self._idle)
        closing = (connection.driver_connection.close(timeout=seconds) for connection in idle)
        await asyncio.gather(*closing, return_exceptions=True)

    def _on_connect(self, connection: Any, record: Any) -> None:
        notice_death(connection.driver_connection._transport.get_extra_info("socket"))

    def _on_checkout(self, connection: Any, record: Any, proxy: Any) -> None:
        self._idle.discard(connection)
        if connection.driver_connection.is_closed():
            raise DisconnectionError  # the pool opens another one in its place

    def _on_checkin(self, connection: Any, record: Any) -> None:
        if connection is not None:
            self._idle.add(connection)

    def _on_invalidate(self, connection: Any, record: Any, error: BaseException | None) -> None:
        # Else the pool says goodbye to it, and waits 2 s for an answer.
        connection.driver_connection.terminate()

    def _on_close(self, connection: Any, record: Any) -> None:
        self._idle.discard(connection)
