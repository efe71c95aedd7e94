"""Writes of a running attempt that are no transitions: its preview, its checkpoint.

Each is one transaction, and locks the session's row first: no file is added to a
session that has ended, was erased, or is another attempt's now.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import and_, delete, func, select, update
from sqlalchemy.sql import ColumnElement

from server.adapters.database import tables
from server.adapters.database.cleanups import CleanupKind, add_cleanups
from server.adapters.database.engine import Connections
from server.adapters.database.rows import LIVING, add_files
from server.adapters.database.tables import database_time
from server.domain.stored_files import Direction, StoredFile
from tryon.protocol.states import Status

_s: Final = tables.sessions.c
_f: Final = tables.files.c


def _held(session_id: str, attempt: int) -> ColumnElement[bool]:
    return and_(_s.id == session_id, _s.status == Status.PROCESSING.value, _s.attempt == attempt, LIVING)


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

    async def replace_preview(self, session_id: str, *, attempt: int, file: StoredFile) -> list[str] | None:
        """Name a preview that is stored, in place of the one before.

        Return the keys that are named no more, none or one; None if the session is not
        this attempt's: then nothing changes.
        """
        own = and_(_f.session_id == session_id, _f.direction == Direction.PREVIEW.value)
        before = select(func.coalesce(func.sum(_f.bytes), 0)).where(own).scalar_subquery()
        counted = update(tables.sessions).where(_held(session_id, attempt))
        async with self._connections.write(grows=True) as connection:
            result = await connection.execute(counted.values(stored_bytes=_s.stored_bytes - before + file.bytes))
            if not result.rowcount:
                return None
            replaced = list((await connection.execute(delete(tables.files).where(own).returning(_f.key))).scalars())
            await add_files(connection, session_id, [file])
        return replaced

    async def save_checkpoint(self, session_id: str, *, attempt: int, checkpoint: str) -> bool:
        """Keep an encrypted checkpoint in place of the one before.

        Return False if the session is not this attempt's: then nothing changes.
        """
        async with self._connections.write(grows=True) as connection:
            result = await connection.execute(
                update(tables.sessions).where(_held(session_id, attempt)).values(checkpoint=checkpoint)
            )
        return bool(result.rowcount)

    async def give_up_checkpoint(self, session_id: str, *, attempt: int) -> bool:
        """Drop the checkpoint; what it finds upstream is to be forgotten.

        Return False if the session is not this attempt's: then nothing changes. A
        repeated call adds no second cleanup.
        """
        held = select(_s.checkpoint, _s.expires_at).where(_held(session_id, attempt)).with_for_update()
        async with self._connections.write() as connection:
            row = (await connection.execute(held)).one_or_none()
            if row is None:
                return False
            await add_cleanups(connection, CleanupKind.FORGET, [(row[0], row[1])])
            await connection.execute(update(tables.sessions).where(_s.id == session_id).values(checkpoint=None))
        return True

    async def extend_deadline(self, session_id: str, *, attempt: int, seconds: float) -> bool:
        """Let a session's deadline be this far from now, but no later than its expiry.

        Return False if the session is not this attempt's: then nothing changes.
        """
        later = database_time(seconds)
        async with self._connections.write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(_held(session_id, attempt), _s.expires_at > later, _s.deadline_at < later)
                .values(deadline_at=later)
            )
        return bool(result.rowcount)

    async def checkpoint(self, session_id: str) -> str | None:
        """Return the encrypted checkpoint of a session, or None."""
        async with self._connections.read() as connection:
            found: str | None = (
                await connection.execute(select(_s.checkpoint).where(_s.id == session_id))
            ).scalar_one_or_none()
        return found
