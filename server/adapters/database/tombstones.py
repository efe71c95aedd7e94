"""Tombstones: the hash of an erased session's id, and why it is gone.

Every process reads them from the feed, so that it ends the session's connections. They
are dropped after :data:`TOMBSTONE_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import tables
from server.adapters.database.tables import current_xact, database_time
from tryon.protocol.states import GoneReason

TOMBSTONE_SECONDS: Final = 120.0
"""Minimum age at which a tombstone is dropped: every process has read it by then."""


async def add_tombstones(connection: AsyncConnection, hashes: Sequence[str], reason: GoneReason) -> None:
    """Leave a tombstone for each of these hashes, within the caller's transaction."""
    if hashes:
        row = {"reason": reason.value, "at": database_time(), "xact": current_xact()}
        await connection.execute(insert(tables.tombstones).values([row | {"id_hash": each} for each in hashes]))


async def family_of(connection: AsyncConnection, session_id: str) -> list[str]:
    """Return the ids of all sessions over the same photo, this one included."""
    table = tables.sessions.c
    chain = select(table.id, table.retry_of).where(table.id == session_id).cte("family", recursive=True)
    # UNION, not UNION ALL: each row once ends the walk, whichever way it goes.
    chain = chain.union(
        select(table.id, table.retry_of).where(or_(table.retry_of == chain.c.id, table.id == chain.c.retry_of))
    )
    return [str(row) for row in (await connection.execute(select(chain.c.id))).scalars()]
