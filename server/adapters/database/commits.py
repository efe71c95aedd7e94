"""Commits that were never confirmed, and when it is certain what became of them.

The answer to a COMMIT may be lost: the connection broke, the database was too slow, or
the task was cancelled. Until that transaction has ended its rows may still appear, also
seconds after another connection did not find them.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import select

from server.adapters.database.engine import Connections
from server.adapters.database.tables import current_snapshot, current_xact

_MARK: Final = select(current_xact())
_SNAPSHOT: Final = select(current_snapshot())


class Commits:
    """Tells whether all commits that were under way have ended.

    Methods raise Unavailable.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<Commits of {self._connections!r}>"

    async def mark(self) -> int:
        """Return a mark: every transaction that has changed a row by now lies below it.

        A COMMIT is sent only after the changes of its transaction were answered.
        """
        if self._connections.sqlite:
            return 0
        async with self._connections.read() as connection:
            return int((await connection.execute(_MARK)).scalar_one())

    async def ended_below(self, mark: int) -> bool:
        """Return whether every transaction below a mark has ended.

        What they committed is visible then. On PostgreSQL a transaction that another
        program keeps open delays the answer.
        """
        if self._connections.sqlite:
            async with self._connections.write():  # which waits for the one other writer
                return True
        async with self._connections.read() as connection:
            snapshot: str = (await connection.execute(_SNAPSHOT)).scalar_one()
        oldest_open = int(snapshot.partition(":")[0])
        return oldest_open >= mark
