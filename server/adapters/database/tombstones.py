"""Tombstones: the hash of an erased session's id, and why it is gone.

Every process reads them from the feed, so that it ends the session's connections. They
are dropped after :data:`TOMBSTONE_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import tables
from server.adapters.database.tables import current_xact, database_time
from tryon.protocol.states import GoneReason

TOMBSTONE_SECONDS: Final = 120.0
"""Minimum age at which a tombstone is dropped: every process has read it by then."""


_INSERT: Final = insert(tables.tombstones).values(at=database_time(), xact=current_xact())


async def add_tombstones(connection: AsyncConnection, hashes: Sequence[str], reason: GoneReason) -> None:
    """Leave a tombstone for each of these hashes, within the caller's transaction."""
    if hashes:
        await connection.execute(_INSERT, [{"id_hash": each, "reason": reason.value} for each in hashes])
