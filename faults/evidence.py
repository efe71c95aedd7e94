"""Rows and files of a cluster, read past its web processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

from server.chaos.records import Transition
from server.domain.session import AuditEvent, Session, timestamp
from testkit.cluster import Cluster
from tryon.protocol.states import Status


async def trails(cluster: Cluster, ids: list[str]) -> dict[str, list[AuditEvent]]:
    """Return the audit trails of these sessions, by id."""
    async with cluster.services() as services:
        found: dict[str, list[AuditEvent]] = {}
        for start in range(0, len(ids), 100):
            stories = await services.database.reader.many_with_events(ids[start : start + 100], 0)
            found |= {session_id: story.events for session_id, story in stories.items()}
    return found


async def sessions(cluster: Cluster) -> list[Session]:
    """Return every session that has a row."""
    async with cluster.services() as services:
        return [session async for session in _all(services.database.connections.engine)]


async def cleanups(cluster: Cluster) -> int:
    """Return the number of cleanups of work upstream that are left to do."""
    from sqlalchemy import func, select

    from server.adapters.database import tables

    async with cluster.services() as services, services.database.connections.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(tables.cleanups))).scalar_one())


async def strangers(cluster: Cluster, known: Collection[str]) -> set[str]:
    """Return the rows of sessions that are not ``known``, and files without a row."""
    rows = await sessions(cluster)
    named = {key for session in rows for key in session.file_keys}
    files = cluster.stored()
    return ({session.id for session in rows} - set(known)) | (files - named)


def transition(event: AuditEvent) -> Transition:
    """Return an event of the audit trail as the checker of `tryon chaos` takes it."""
    return Transition(
        event.seq,
        event.event.value,
        event.from_status and event.from_status.value,
        event.status.value,
        timestamp(event.at),
    )


def terminal(trail: list[AuditEvent]) -> Status | None:
    """Return the last status of a trail if it is terminal."""
    return trail[-1].status if trail and trail[-1].status.terminal else None


async def _all(engine: Any) -> AsyncIterator[Session]:
    from sqlalchemy import select

    from server.adapters.database.rows import SESSION_COLUMNS, to_session

    async with engine.connect() as connection:
        for row in (await connection.execute(select(*SESSION_COLUMNS))).all():
            yield to_session(row)
