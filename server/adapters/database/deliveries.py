"""Webhooks that are to be sent: one row for each session that has one.

The row is inserted with its session, in the same transaction, and is due once the
session has ended: no moment in which a process dies can lose it. It is kept until the
session is erased, as a note of when it was delivered, and for a retry of the session.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy import insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import tables
from server.adapters.database.changes import NewSession
from server.adapters.database.engine import Connections
from server.adapters.database.rows import LIVING
from server.adapters.database.tables import database_time, statement_time

_d: Final = tables.deliveries.c
_s: Final = tables.sessions.c
_DUE: Final = (
    select(_d.session_id, _d.url, _d.attempts)
    .join(tables.sessions, _s.id == _d.session_id)
    .where(_d.delivered_at.is_(None), _d.next_at <= statement_time(), _s.finished_at.is_not(None), LIVING)
    .order_by(_d.next_at, _d.session_id)
)


class Delivery(NamedTuple):
    """A webhook that is due; ``url`` is empty for that of the settings."""

    session_id: str
    url: str
    attempts: int


async def add_delivery(connection: AsyncConnection, new: NewSession) -> None:
    """Insert the row of a new session that has a webhook.

    A retry has the one of its original.
    """
    values = {"session_id": new.id, "next_at": database_time(), "attempts": 0}
    if new.webhook is not None:
        await connection.execute(insert(tables.deliveries).values(url=new.webhook, **values))
    elif new.retry_of is not None:
        of_original = select(literal(new.id, _d.session_id.type), _d.url, database_time(), literal(0)).where(
            _d.session_id == new.retry_of
        )
        columns = ["session_id", "url", "next_at", "attempts"]
        await connection.execute(insert(tables.deliveries).from_select(columns, of_original))


class Deliveries:
    """The webhooks of ended sessions. Methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<Deliveries of {self._connections!r}>"

    async def due(
        self, *, limit: int, except_ids: Collection[str] = (), except_urls: Collection[str] = ()
    ) -> list[Delivery]:
        """Return webhooks of living sessions that have ended, the longest due first.

        Left out are those of the sessions ``except_ids``, and those whose address
        begins with one of ``except_urls``; an empty one stands for the settings'.
        """
        query = _DUE.where(_d.session_id.not_in(except_ids)) if except_ids else _DUE
        for start in except_urls:
            query = query.where(~_d.url.startswith(start, autoescape=True) if start else _d.url != "")
        async with self._connections.read() as connection:
            return [Delivery(*row) for row in await connection.execute(query.limit(limit))]

    async def begin(self, delivery: Delivery, *, pause_seconds: float) -> bool:
        """Count an attempt before it is made; the next is due after the pause.

        Return False if another process makes this one.
        """
        own = select(_d.session_id).where(
            _d.session_id == delivery.session_id, _d.attempts == delivery.attempts, _d.delivered_at.is_(None)
        )
        async with self._connections.write() as connection:
            result = await connection.execute(
                update(tables.deliveries)
                .where(_d.session_id.in_(own.with_for_update(skip_locked=True)))
                .values(attempts=delivery.attempts + 1, next_at=database_time(pause_seconds))
            )
        return result.rowcount == 1

    async def note_delivered(self, session_id: str) -> None:
        """Note that the receiver has accepted the webhook: it is not sent again."""
        async with self._connections.write() as connection:
            await connection.execute(
                update(tables.deliveries).where(_d.session_id == session_id).values(delivered_at=database_time())
            )
