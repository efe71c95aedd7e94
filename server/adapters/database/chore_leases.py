"""Leases of chores, by name: each chore is done by one process at a time.

The lease of a worker on a session is a column of the session, see :mod:`.writing`.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Float, String, bindparam, delete, or_
from sqlalchemy.dialects import postgresql, sqlite

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.tables import database_time


def _take(dialect: Any) -> Any:
    by = bindparam("by", type_=String)
    lease = tables.leases.c
    statement = dialect.insert(tables.leases).values(
        name=bindparam("lease", type_=String), owner=by, expires_at=database_time(bindparam("seconds", type_=Float))
    )
    return statement.on_conflict_do_update(
        index_elements=["name"],
        set_={"owner": statement.excluded.owner, "expires_at": statement.excluded.expires_at},
        where=or_(
            lease.owner == by,
            lease.expires_at <= database_time(),
            lease.expires_at > database_time(bindparam("too_long", type_=Float)),
        ),
    ).returning(lease.owner)


_TAKE_SQLITE: Final = _take(sqlite)
_TAKE_POSTGRESQL: Final = _take(postgresql)


class ChoreLeases:
    """Grants the named leases of all processes. Methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._take = _TAKE_SQLITE if connections.sqlite else _TAKE_POSTGRESQL

    def __repr__(self) -> str:
        return f"<ChoreLeases of {self._connections!r}>"

    async def take(self, name: str, *, owner: str, seconds: float) -> bool:
        """Take or extend a lease; return False if another owner holds it.

        A lease that ends later than twice ``seconds`` from now is free as well: it was
        left behind when the clock was set back.
        """
        wanted = {"lease": name, "by": owner, "seconds": seconds, "too_long": 2 * seconds}
        async with self._connections.write() as connection:
            return (await connection.execute(self._take, wanted)).one_or_none() is not None

    async def drop(self, name: str, *, owner: str) -> None:
        """Give a lease back, if this owner holds it."""
        async with self._connections.write() as connection:
            await connection.execute(
                delete(tables.leases).where(tables.leases.c.name == name, tables.leases.c.owner == owner)
            )
