"""Reads for operators, each bounded: what lives, what waits, what ended lately.

They run once or twice a second for each web process with an open operators' page, and
not at all elsewhere. Every statement has an index and a limit, or groups rows that the
settings bound: the waiting and the running sessions, and the workers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import and_, func, select
from sqlalchemy.sql import Select

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.reading import IDS_A_STATEMENT
from server.adapters.database.rows import ROW_COLUMNS, UNFINISHED, to_session
from server.adapters.database.tables import statement_time
from server.domain.session import Session
from tryon.protocol.states import Event, Status

ENDED_ROWS: Final = 5000
"""Maximum ended sessions that durations and failures are counted from, the newest."""

_s: Final = tables.sessions.c
_e: Final = tables.events.c
_LIVING: Final = _s.expires_at > statement_time()


@dataclass(frozen=True, slots=True)
class Transition:
    """One event of a session, without its files: ``reason`` is that of a requeue."""

    session_id: str
    seq: int
    event: str
    status: str
    at: datetime
    attempt: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Waits:
    """The sessions of one processor that have not ended, by their status."""

    status: Status
    processor: str
    count: int
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker's claims under one run: their number, and the first lease to end."""

    lease_owner: str
    count: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that ended.

    ``begun_at``: its last claim; None if none led to the end.
    """

    status: Status
    processor: str
    error_code: str | None
    created_at: datetime
    begun_at: datetime | None
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class NamedLease:
    """The lease of a chore."""

    name: str
    owner: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Described:
    """The processor that a living worker has published."""

    worker: str
    processor: str
    version: str


class _Description(msgspec.Struct):
    name: str = ""
    version: str = ""


class _Reason(msgspec.Struct):
    reason: str | None = None


_description: Final = msgspec.json.Decoder(_Description).decode
_reason: Final = msgspec.json.Decoder(_Reason).decode


def _sessions(*order: Any) -> Select[Any]:
    return select(*ROW_COLUMNS).where(_LIVING).order_by(*order)


class OverviewReader:
    """The reads of the operator's page. All methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<OverviewReader of {self._connections!r}>"

    async def newest(self, limit: int) -> list[Session]:
        """Return the living sessions that operators look at, without their files.

        The newest that have not ended come first; the newest of all fill up to the
        limit. The answer is in the order of creation, the newest first.
        """
        # A session's deadline follows its creation, and there is an index for it.
        unfinished = _sessions(_s.deadline_at.desc(), _s.id.desc()).where(UNFINISHED).limit(limit)
        newest = _sessions(_s.id.desc()).limit(limit)
        async with self._connections.read() as connection:
            rows = list((await connection.execute(unfinished)).all())
            if len(rows) < limit:
                known = {row[0] for row in rows}
                rows += [row for row in (await connection.execute(newest)).all() if row[0] not in known]
        found = [to_session(row) for row in rows[:limit]]
        return sorted(found, key=lambda session: session.id, reverse=True)

    async def one(self, session_id: str) -> Session | None:
        """Return a living session without its files, or None."""
        async with self._connections.read() as connection:
            row = (await connection.execute(_sessions(_s.id).where(_s.id == session_id))).one_or_none()
        return None if row is None else to_session(row)

    async def transitions(self, session_ids: Collection[str]) -> dict[str, list[Transition]]:
        """Return the events of these sessions, each session's in their order."""
        found: dict[str, list[Transition]] = {session_id: [] for session_id in session_ids}
        columns = (_e.session_id, _e.seq, _e.event, _e.status, _e.at, _e.attempt, _e.data)
        ids = sorted(found)
        for start in range(0, len(ids), IDS_A_STATEMENT):
            some = ids[start : start + IDS_A_STATEMENT]
            query = select(*columns).where(_e.session_id.in_(some)).order_by(_e.session_id, _e.seq)
            async with self._connections.read() as connection:
                for row in (await connection.execute(query)).all():
                    reason = _reason(row.data).reason if row.event == Event.REQUEUED.value else None
                    found[row.session_id].append(
                        Transition(row.session_id, row.seq, row.event, row.status, row.at, row.attempt, reason)
                    )
        return found

    async def unfinished(self) -> list[Waits]:
        """Return how many sessions wait and run, by status and processor."""
        query = select(_s.status, _s.processor, func.count(), func.min(_s.created_at)).where(UNFINISHED, _LIVING)
        async with self._connections.read() as connection:
            rows = (await connection.execute(query.group_by(_s.status, _s.processor))).all()
        return [Waits(Status(status), *rest) for status, *rest in rows]

    async def holders(self) -> list[Holder]:
        """Return the claims of all workers, by the owner of their leases."""
        query = select(_s.lease_owner, func.count(), func.min(_s.lease_expires_at))
        query = query.where(_s.status == Status.PROCESSING.value, _s.lease_owner.is_not(None))
        async with self._connections.read() as connection:
            return [Holder(*row) for row in (await connection.execute(query.group_by(_s.lease_owner))).all()]

    async def ended(self, *, after_id: str, seconds: float) -> list[Ended]:
        """Return what ended in the last ``seconds``: the newest :data:`ENDED_ROWS`.

        ``after_id``: an id older than all that may be among them; ids sort by creation.
        """
        finished = and_(_s.id > after_id, _s.finished_at > statement_time(-seconds))
        ended = select(_s.id, _s.seq, _s.status, _s.processor, _s.error_code, _s.created_at, _s.finished_at)
        rows = ended.where(finished).order_by(_s.id.desc()).limit(ENDED_ROWS).subquery()
        claim = and_(_e.session_id == rows.c.id, _e.seq == rows.c.seq - 1, _e.event == Event.PROCESSING.value)
        query = select(
            rows.c.status, rows.c.processor, rows.c.error_code, rows.c.created_at, _e.at, rows.c.finished_at
        ).select_from(rows.outerjoin(tables.events, claim))
        async with self._connections.read() as connection:
            return [Ended(Status(status), *rest) for status, *rest in (await connection.execute(query)).all()]

    async def chore_leases(self) -> list[NamedLease]:
        """Return the leases of chores that hold."""
        lease = tables.leases.c
        query = select(lease.name, lease.owner, lease.expires_at).where(lease.expires_at > statement_time())
        async with self._connections.read() as connection:
            return [NamedLease(*row) for row in (await connection.execute(query.order_by(lease.name))).all()]

    async def descriptions(self) -> list[Described]:
        """Return the processors that living workers have published."""
        row = tables.processors.c
        query = select(row.worker, row.description).where(row.expires_at > statement_time()).order_by(row.worker)
        async with self._connections.read() as connection:
            rows = (await connection.execute(query)).all()
        described = [(worker, _description(text)) for worker, text in rows]
        return [Described(worker, each.name, each.version) for worker, each in described]
