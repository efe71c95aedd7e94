"""Reads of sessions and their events. An expired session is never found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Integer, and_, bindparam, func, literal, or_, select
from sqlalchemy.sql import ColumnElement

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.rows import (
    EVENT_COLUMNS,
    LIVING,
    SESSION_COLUMNS,
    UNFINISHED,
    family_of,
    to_event,
    to_session,
)
from server.adapters.database.tables import statement_time
from server.domain.session import AuditEvent, Session
from tryon.protocol.states import GoneReason, Status

IDS_A_STATEMENT: Final = 500
"""Maximum ids in one statement; SQLite and the driver of PostgreSQL have limits."""


# Built once: building a statement takes as long as running it.
_NAMED: Final = and_(tables.sessions.c.id.in_(bindparam("ids", expanding=True)), LIVING)
_SESSIONS: Final = select(*SESSION_COLUMNS).where(_NAMED)
_LATER: Final = and_(
    tables.events.c.session_id == tables.sessions.c.id, tables.events.c.seq > bindparam("since", type_=Integer)
)
_WITH_EVENTS: Final = (
    select(*SESSION_COLUMNS, *EVENT_COLUMNS)
    .select_from(tables.sessions.outerjoin(tables.events, _LATER))
    .where(_NAMED)
    .order_by(tables.events.c.seq)
)

MayRead = Callable[[str, str], bool]
"""Whether a caller may read the session with this id and this owner."""

_OWNER: Final = list(Session.__dataclass_fields__).index("owner")
"""The place of the owner in :data:`SESSION_COLUMNS`."""


def _anyone(session_id: str, owner: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class SessionWithEvents:
    """A session and its events after some ``seq``.

    One statement read both, so the last event is the one that led to this state.
    """

    session: Session
    events: list[AuditEvent]


class SessionReader:
    """The sessions as they are now. All methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<SessionReader of {self._connections!r}>"

    async def get(self, session_id: str, may: MayRead = _anyone) -> Session | None:
        """Return a living session, or None. ``may``: see :meth:`many_with_events`."""
        found = (await self.many_with_events([session_id], may=may)).get(session_id)
        return None if found is None else found.session

    async def with_events(self, session_id: str, since: int | None = None) -> SessionWithEvents | None:
        """Return a living session with its events after ``since``, or with none."""
        return (await self.many_with_events([session_id], since)).get(session_id)

    async def many_with_events(
        self, session_ids: Collection[str], since: int | None = None, may: MayRead = _anyone
    ) -> dict[str, SessionWithEvents]:
        """Return several sessions by id, without the unknown and expired ones.

        ``may`` decides from id and owner whether a session may be read. It is asked
        before anything of the row is decoded, so that the time of an answer does not
        tell a foreign id from an unknown one.
        """
        query = _SESSIONS if since is None else _WITH_EVENTS
        values = {"ids": sorted(session_ids)} | ({} if since is None else {"since": since})
        async with self._connections.read() as connection:
            rows = (await connection.execute(query, values)).all()
        found: dict[str, SessionWithEvents] = {}
        width = len(SESSION_COLUMNS)
        for row in rows:
            session = found.get(row[0])
            if session is None:
                if not may(row[0], row[_OWNER]):
                    continue
                session = found[row[0]] = SessionWithEvents(to_session(row[:width]), [])
            if len(row) > width and row[width] is not None:
                session.events.append(to_event(row[width:]))
        return found

    async def seqs(self, session_ids: Collection[str]) -> dict[str, int]:
        """Return the newest seq of each session, without the unknown and expired ones.

        A tenth of the cost of :meth:`many_with_events`.
        """
        table = tables.sessions.c
        query = select(table.id, table.seq).where(table.id.in_(sorted(session_ids)), LIVING)
        async with self._connections.read() as connection:
            return {row[0]: row[1] for row in (await connection.execute(query)).all()}

    async def of_owner(self, owner: str, *, limit: int, before: tuple[datetime, str] | None) -> list[Session]:
        """Return an owner's living sessions, newest first.

        ``before`` is the (created_at, id) of the last one on the page before.
        """
        table = tables.sessions.c
        query = select(*SESSION_COLUMNS).where(table.owner == owner, LIVING)
        if before is not None:
            at, session_id = before
            query = query.where(or_(table.created_at < at, and_(table.created_at == at, table.id < session_id)))
        query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit)
        async with self._connections.read() as connection:
            return [to_session(row) for row in (await connection.execute(query)).all()]

    async def unfinished_of_owner(self, owner: str, *, limit: int) -> list[str]:
        """Return the ids of an owner's sessions that wait or run, newest first."""
        table = tables.sessions.c
        query = select(table.id).where(table.owner == owner, UNFINISHED, LIVING)
        query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit)
        async with self._connections.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def unfinished_of_owners(self, owners: Collection[str], *, limit: int) -> list[tuple[str, str]]:
        """Return owner and id of their sessions that wait or run, newest first.

        ``limit``: of each owner. Some hundreds of owners at a time.
        """
        table = tables.sessions.c
        place = func.row_number().over(partition_by=table.owner, order_by=(table.created_at.desc(), table.id.desc()))
        numbered = select(table.owner, table.id, place.label("place")).where(
            table.owner.in_(sorted(owners)), UNFINISHED, LIVING
        )
        found = numbered.subquery().c
        query = select(found.owner, found.id).where(found.place <= limit).order_by(found.place, found.id)
        async with self._connections.read() as connection:
            return [(row[0], row[1]) for row in await connection.execute(query)]

    async def finished_of_owner(self, owner: str, *, created_seconds: float, limit: int) -> list[str]:
        """Return the ids of an owner's sessions that have ended, newest first.

        Of those alone that were created within the last ``created_seconds``.
        """
        table = tables.sessions.c
        lately = table.created_at > statement_time(-created_seconds)
        query = select(table.id).where(table.owner == owner, lately, table.finished_at.is_not(None), LIVING)
        query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit)
        async with self._connections.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def owners_of(self, session_ids: Collection[str]) -> dict[str, str]:
        """Return the owner of each session, without the unknown and expired ones."""
        table = tables.sessions.c
        found: dict[str, str] = {}
        for some in _chunks(session_ids):
            async with self._connections.read() as connection:
                rows = await connection.execute(select(table.id, table.owner).where(table.id.in_(some), LIVING))
                found.update((row[0], row[1]) for row in rows.all())
        return found

    async def by_idempotency_key(self, owner: str, key: str) -> tuple[Session, str] | None:
        """Return the living session of this key, and the fingerprint of its request."""
        table = tables.sessions.c
        query = select(*SESSION_COLUMNS, table.idempotency_fingerprint).where(
            table.owner == owner, table.idempotency_key == key, LIVING
        )
        async with self._connections.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else (to_session(row), row[-1])

    async def retry_of(self, session_id: str) -> Session | None:
        """Return the living session that retries this one, or None."""
        query = select(*SESSION_COLUMNS).where(tables.sessions.c.retry_of == session_id, LIVING)
        async with self._connections.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else to_session(row)

    async def family(self, session_id: str) -> list[Session]:
        """Return the living sessions over the same photo, this one included."""
        async with self._connections.read() as connection:
            ids = await family_of(connection, session_id)
            rows = await connection.execute(select(*SESSION_COLUMNS).where(tables.sessions.c.id.in_(ids), LIVING))
            return [to_session(row) for row in rows.all()]

    async def ids_among(self, session_ids: Collection[str]) -> set[str]:
        """Return the ids among these that have a row, living or expired."""
        return await self._among(tables.sessions.c.id, session_ids)

    async def reasons_among(self, hashes: Collection[str]) -> dict[str, GoneReason]:
        """Return the reasons of the tombstones among these hashes.

        Where there are several, that of a deletion.
        """
        table, found = tables.tombstones.c, dict[str, GoneReason]()
        for some in _chunks(hashes):
            query = select(table.id_hash, table.reason).where(table.id_hash.in_(some))
            async with self._connections.read() as connection:
                for id_hash, reason in await connection.execute(query):
                    if found.get(id_hash) is not GoneReason.DELETED:
                        found[id_hash] = GoneReason(reason)
        return found

    async def _among(
        self, column: ColumnElement[str], values: Collection[str], *conditions: ColumnElement[bool]
    ) -> set[str]:
        found: set[str] = set()
        for some in _chunks(values):  # each a read of its own: all together may take longer than one may
            async with self._connections.read() as connection:
                rows = await connection.execute(select(column).where(*conditions, column.in_(some)))
                found.update(rows.scalars())
        return found

    async def count_waiting(self) -> int:
        """Return the number of sessions that wait for a worker."""
        query = select(func.count()).select_from(tables.sessions)
        query = query.where(tables.sessions.c.status == Status.CREATED.value)
        async with self._connections.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def check(self) -> None:
        """Make one round trip, for the readiness check."""
        async with self._connections.read() as connection:
            await connection.execute(select(literal(1)).select_from(tables.leases).limit(1))


def _chunks(values: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(values)
    for start in range(0, len(ordered), IDS_A_STATEMENT):
        yield ordered[start : start + IDS_A_STATEMENT]
