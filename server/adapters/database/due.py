"""Sessions that time alone moves on: past a deadline, lease or expiry, or waiting."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Float, Integer, and_, bindparam, func, or_, select, tuple_
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.selectable import ScalarSelect

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.rows import LIVING, SESSION_COLUMNS, UNFINISHED, to_session
from server.adapters.database.tables import statement_time
from server.domain.session import Session
from tryon.protocol.states import Status


class Queued(NamedTuple):
    """A session that should have a job in the queue: the parts of its job id."""

    session_id: str
    seq: int
    enqueues: int


class Backlog(NamedTuple):
    """The unfinished sessions of one status and processor."""

    status: Status
    processor: str
    sessions: int
    oldest: datetime
    """The time at which the oldest of them was created."""


# Every process asks these every few seconds, also when nothing happens: built once.
_BEGINNING: Final = datetime.fromtimestamp(0, UTC)
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_AFTER: Final = bindparam("after", type_=tables.UtcDateTime())
_s: Final = tables.sessions.c
_PROCESSING: Final = _s.status == Status.PROCESSING.value
_DUE: Final = (
    select(*SESSION_COLUMNS)
    .where(
        or_(
            and_(UNFINISHED, _s.deadline_at <= statement_time()),
            and_(_PROCESSING, _s.lease_expires_at <= statement_time()),
        ),
        LIVING,
    )
    .where(tuple_(_s.created_at, _s.id) > tuple_(_AFTER, bindparam("after_id", type_=_s.id.type)))
    .order_by(_s.created_at, _s.id)
    .limit(bindparam("most", type_=Integer))
)
_EXPIRED: Final = (
    select(*SESSION_COLUMNS)
    .where(_s.expires_at <= statement_time())
    .where(tuple_(_s.expires_at, _s.id) > tuple_(_AFTER, bindparam("after_id", type_=_s.id.type)))
    .order_by(_s.expires_at, _s.id)
    .limit(bindparam("most", type_=Integer))
)
_LONG_WAITING: Final = (
    select(_s.id, _s.seq, _s.enqueues)
    .where(_s.status == Status.CREATED.value, _s.updated_at <= statement_time(bindparam("ago", type_=Float)))
    .order_by(_s.created_at, _s.id)
)


_WAITING: Final = (
    select(_s.processor, func.count().label("waiting"))
    .where(_s.status == Status.CREATED.value, LIVING)
    .group_by(_s.processor)
)


_BACKLOG: Final = (
    select(_s.status, _s.processor, func.count(), func.min(_s.created_at))
    .where(UNFINISHED, LIVING)
    .group_by(_s.status, _s.processor)
)
_OVERDUE: Final = select(func.count()).select_from(
    select(_s.id).where(_s.expires_at <= statement_time()).limit(bindparam("most", type_=Integer)).subquery()
)


def _first(ends: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    return select(func.min(ends)).where(ends > _AFTER, *conditions).scalar_subquery()


_NEXT_DUE: Final = select(
    _first(_s.expires_at),
    _first(_s.deadline_at, UNFINISHED),
    _first(_s.lease_expires_at, _PROCESSING),
)


class DueSessions:
    """Reads of the reconciler. All raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<DueSessions of {self._connections!r}>"

    async def due(self, *, after: Session | None = None, limit: int = 100) -> list[Session]:
        """Return living sessions that are past their deadline or whose lease lapsed.

        Oldest first, ``limit`` at a time; ``after`` is the last one of the page before.
        """
        since = (_BEGINNING, _NIL) if after is None else (after.created_at, after.id)
        async with self._connections.read() as connection:
            rows = await connection.execute(_DUE, {"after": since[0], "after_id": since[1], "most": limit})
            return [to_session(row) for row in rows.all()]

    async def expired(self, *, after: Session | None = None, limit: int) -> list[Session]:
        """Return sessions whose retention has ended, the longest expired first.

        ``limit`` at a time; ``after`` is the last one of the page before.
        """
        since = (_BEGINNING, _NIL) if after is None else (after.expires_at, after.id)
        async with self._connections.read() as connection:
            rows = await connection.execute(_EXPIRED, {"after": since[0], "after_id": since[1], "most": limit})
            return [to_session(row) for row in rows.all()]

    async def long_waiting(self, *, seconds: float) -> list[Queued]:
        """Return all sessions that have waited for a worker for at least ``seconds``.

        Oldest first, whether or not the queue has their jobs. The answer has no limit,
        so each is only the parts of its job id: 10,000 take 30 ms.
        """
        async with self._connections.read() as connection:
            return [Queued(*row) for row in (await connection.execute(_LONG_WAITING, {"ago": -seconds})).all()]

    async def waiting_for(self) -> dict[str, int]:
        """Return how many sessions wait for a worker, by their processor."""
        async with self._connections.read() as connection:
            rows = await connection.execute(_WAITING)
            return {row.processor: row.waiting for row in rows}

    async def backlog(self) -> list[Backlog]:
        """Return how many sessions wait and run, by status and processor."""
        async with self._connections.read() as connection:
            rows = await connection.execute(_BACKLOG)
            return [Backlog(Status(status), *rest) for status, *rest in rows.all()]

    async def count_expired(self, most: int) -> int:
        """Return how many expired sessions have their row yet; at most ``most``."""
        async with self._connections.read() as connection:
            return int((await connection.execute(_OVERDUE, {"most": most})).scalar_one())

    async def next_due(self, after: datetime | None = None) -> datetime | None:
        """Return the time at which the next lease, deadline or expiry ends, or None.

        Only ends later than ``after`` count, for a caller that has tried all earlier.
        """
        async with self._connections.read() as connection:
            row = (await connection.execute(_NEXT_DUE, {"after": after or _BEGINNING})).one()
        return min((at for at in row if at is not None), default=None)
