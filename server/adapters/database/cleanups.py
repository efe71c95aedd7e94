"""Cleanups: work upstream that is to be stopped or deleted, after its session.

A row is inserted in the transaction that ends or erases the session, so no killed
process loses it. It has an id of its own and nothing of the session but the encrypted
checkpoint, and goes with the success of its job, or when its time is over.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.tables import UtcDateTime, database_time, statement_time

LEAST_SECONDS: Final = 3600.0
"""Minimum time for a cleanup: a session that expires by itself has none left."""

OVERDUE_AT_ONCE: Final = 500
"""Maximum cleanups given up in one transaction; the next ones follow seconds later."""

_c: Final = tables.cleanups.c


class CleanupKind(StrEnum):
    """The two requests to an upstream after a session."""

    CANCEL = "cancel"
    """Stop the work: its session was cancelled or has failed."""
    FORGET = "forget"
    """Delete what is kept: its session was erased."""


class Cleanup(NamedTuple):
    """A row of ``tryon_cleanups``; ``work`` is an encrypted checkpoint."""

    id: str
    kind: CleanupKind
    work: str
    attempts: int


async def add_cleanups(
    connection: AsyncConnection, kind: CleanupKind, works: Collection[tuple[str | None, datetime]]
) -> dict[str, str]:
    """Insert a cleanup of each session that has a checkpoint.

    ``works``: encrypted checkpoint and expiry of each session. Return the checkpoints
    by the ids of their cleanups.
    """
    later = func.max if connection.dialect.name == "sqlite" else func.greatest
    added = {}
    for work, expires_at in works:
        if work is not None:
            cleanup_id = secrets.token_hex(16)
            added[cleanup_id] = work
            until = later(literal(expires_at, UtcDateTime()), database_time(LEAST_SECONDS))
            row = {"id": cleanup_id, "kind": kind.value, "work": work, "attempts": 0}
            await connection.execute(insert(tables.cleanups).values(**row, until=until, next_at=database_time()))
    return added


class Cleanups:
    """The cleanups that are left to do. Methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<Cleanups of {self._connections!r}>"

    async def due(self, *, limit: int) -> list[Cleanup]:
        """Return cleanups whose next attempt is due, the longest due first."""
        due = select(_c.id, _c.kind, _c.work, _c.attempts).where(_c.next_at <= statement_time()).order_by(_c.next_at)
        async with self._connections.read() as connection:
            return [_cleanup(row) for row in await connection.execute(due.limit(limit))]

    async def begin(self, cleanup: Cleanup, *, pause_seconds: float) -> bool:
        """Count an attempt before its job is enqueued; the next is due after the pause.

        Return False if another process counts it, or has, or it is done.
        """
        own = select(_c.id).where(_c.id == cleanup.id, _c.attempts == cleanup.attempts)
        async with self._connections.write() as connection:
            result = await connection.execute(
                update(tables.cleanups)
                .where(_c.id.in_(own.with_for_update(skip_locked=True)))
                .values(attempts=cleanup.attempts + 1, next_at=database_time(pause_seconds))
            )
        return result.rowcount == 1

    async def postpone(self, cleanup_ids: Collection[str], *, seconds: float) -> None:
        """Postpone cleanups by ``seconds``, without counting an attempt."""
        later = update(tables.cleanups).where(_c.id.in_(sorted(cleanup_ids)))
        async with self._connections.write() as connection:
            await connection.execute(later.values(next_at=database_time(seconds)))

    async def take_back_attempt(self, cleanup_id: str, *, attempts: int, seconds: float) -> None:
        """Count one attempt less than ``attempts``; the next is due in ``seconds``.

        Nothing changes if another process has counted one meanwhile.
        """
        counted = update(tables.cleanups).where(_c.id == cleanup_id, _c.attempts == attempts)
        async with self._connections.write() as connection:
            await connection.execute(counted.values(attempts=max(0, attempts - 1), next_at=database_time(seconds)))

    async def get(self, cleanup_id: str) -> Cleanup | None:
        """Return a cleanup that is left to do, or None."""
        found = select(_c.id, _c.kind, _c.work, _c.attempts).where(_c.id == cleanup_id)
        async with self._connections.read() as connection:
            row = (await connection.execute(found)).one_or_none()
        return None if row is None else _cleanup(row)

    async def left_among(self, cleanup_ids: Collection[str]) -> set[str]:
        """Return the ids among these that are not done."""
        async with self._connections.read() as connection:
            return set((await connection.execute(select(_c.id).where(_c.id.in_(sorted(cleanup_ids))))).scalars())

    async def remove(self, cleanup_id: str) -> None:
        """Remove a cleanup that is done."""
        async with self._connections.write() as connection:
            await connection.execute(delete(tables.cleanups).where(_c.id == cleanup_id))

    async def remove_overdue(self) -> int:
        """Remove cleanups whose time is over, :data:`OVERDUE_AT_ONCE` at most.

        Return how many. Those that a worker or another process has locked are left.
        """
        overdue = select(_c.id).where(_c.until <= statement_time()).limit(OVERDUE_AT_ONCE)
        async with self._connections.read() as connection:
            if (await connection.execute(overdue.limit(1))).first() is None:
                return 0
        async with self._connections.write() as connection:
            result = await connection.execute(
                delete(tables.cleanups).where(_c.id.in_(overdue.with_for_update(skip_locked=True)))
            )
        return result.rowcount


def _cleanup(row: Sequence[Any]) -> Cleanup:
    return Cleanup(row[0], CleanupKind(row[1]), row[2], row[3])
