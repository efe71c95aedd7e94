"""Writes of a running attempt that are no transitions: its preview, its files.

Each is one transaction, and locks the session's row first: no file is added to a
session that has ended, was erased, or is another attempt's now.
"""

from __future__ import annotations

from sqlalchemy import select

from server.adapters.database import tables
from server.adapters.database.engine import Connections

_s = tables.sessions.c


class AttemptWriter:
    """The writes of running attempts. All raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<AttemptWriter of {self._connections!r}>"

    async def settled_keys(self, session_id: str) -> set[str]:
        """Return the keys of a session's files, also of an expired session.

        Unlike a read it waits until no other transaction changes the row, and so for a
        commit that was not confirmed.
        """
        keys = select(tables.files.c.key).where(tables.files.c.session_id == session_id)
        async with self._connections.write() as connection:
            await connection.execute(select(_s.id).where(_s.id == session_id).with_for_update())
            return set((await connection.execute(keys)).scalars())
