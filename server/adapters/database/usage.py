"""The usage of an owner and an address: bytes of stored photos, and waiting sessions.

Counted from the rows themselves, so it is right after a deletion, an expiry, a restart
and without Redis. A row counts until it is removed, which is after its files.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import tables
from server.domain.allowance import Usage
from tryon.protocol.states import Status

_s: Final = tables.sessions.c
_OWN: Final = _s.owner == bindparam("owner_hash")
_FROM: Final = _s.address_hash == bindparam("client_address_hash")
_BYTES: Final = select(func.coalesce(func.sum(_s.stored_bytes), 0))
_WAITING: Final = select(func.count(_s.id)).where(_s.status == Status.CREATED.value)
_USAGE: Final = select(
    _BYTES.where(_OWN).scalar_subquery(),
    _WAITING.where(_OWN).scalar_subquery(),
    _BYTES.where(_FROM).scalar_subquery(),
    _WAITING.where(_FROM).scalar_subquery(),
)


async def usage_of(connection: AsyncConnection, *, owner: str, address_hash: str | None) -> Usage:
    """Return what an owner and an address have now; without an address it has nothing.

    In the transaction of an insert: on SQLite, which has one writer, no other session
    can come between. On PostgreSQL, inserts of the same moment do not see each other.
    """
    row = (await connection.execute(_USAGE, {"owner_hash": owner, "client_address_hash": address_hash})).one()
    return Usage(
        owner_bytes=int(row[0]), owner_waiting=int(row[1]), address_bytes=int(row[2]), address_waiting=int(row[3])
    )
