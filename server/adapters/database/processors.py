"""Descriptions of processors, which workers publish under a lease.

A row is one worker's. When a worker stops its lease ends, and the row stays until a
worker with the same setting publishes again: the last description is never lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Float, String, Text, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.tables import database_time, statement_time

_p: Final = tables.processors


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedProcessor:
    """The description that one worker published."""

    setting: str
    """``TRYON_PROCESSOR`` of that worker."""
    description: str
    """JSON."""
    published_at: datetime
    """When the worker published it first."""
    expires_at: datetime
    living: bool
    """Whether the lease still holds."""


def _publish(dialect: Any) -> Any:
    statement = dialect.insert(_p).values(
        worker=bindparam("by", type_=String),
        setting=bindparam("of", type_=String),
        description=bindparam("text", type_=Text),
        published_at=database_time(),
        expires_at=database_time(bindparam("seconds", type_=Float)),
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["worker"],
        set_={"setting": new.setting, "description": new.description, "expires_at": new.expires_at},
    )


_PUBLISH_SQLITE: Final = _publish(sqlite)
_PUBLISH_POSTGRESQL: Final = _publish(postgresql)

_SUPERSEDED: Final = delete(_p).where(
    _p.c.setting == bindparam("of", type_=String),
    _p.c.worker != bindparam("by", type_=String),
    _p.c.expires_at <= database_time(),
)


class Processors:
    """The rows of all workers. Methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._publish = _PUBLISH_SQLITE if connections.sqlite else _PUBLISH_POSTGRESQL

    def __repr__(self) -> str:
        return f"<Processors of {self._connections!r}>"

    async def publish(self, worker: str, *, setting: str, description: str, seconds: float) -> None:
        """Publish a worker's description, or extend its lease.

        Descriptions of the same setting whose lease has ended are superseded: they go.
        """
        wanted = {"by": worker, "of": setting, "text": description, "seconds": seconds}
        async with self._connections.write() as connection:
            await connection.execute(self._publish, wanted)
            await connection.execute(_SUPERSEDED, {"by": worker, "of": setting})

    async def withdraw(self, worker: str) -> None:
        """End a worker's lease: it stops."""
        ended = update(_p).where(_p.c.worker == worker).values(expires_at=database_time())
        async with self._connections.write() as connection:
            await connection.execute(ended)

    async def all(self) -> list[PublishedProcessor]:
        """Return what all workers have published."""
        living = (_p.c.expires_at > statement_time()).label("living")
        query = select(_p.c.setting, _p.c.description, _p.c.published_at, _p.c.expires_at, living)
        async with self._connections.read() as connection:
            rows = (await connection.execute(query)).all()
        return [
            PublishedProcessor(
                setting=row.setting,
                description=row.description,
                published_at=row.published_at,
                expires_at=row.expires_at,
                living=bool(row.living),
            )
            for row in rows
        ]
