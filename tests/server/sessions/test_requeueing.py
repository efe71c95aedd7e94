"""Sessions that go back to the queue, and the limit of their attempts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import update

from server.adapters.database import tables
from server.services import Services
from tests.server.sessions.conftest import begin, row, submit
from tryon.protocol.states import Status


async def test_session_fails_when_attempts_are_burnt(services: Services) -> None:
    """Fail a session with `worker_lost` after its third burnt attempt."""
    session = await submit(services)
    for _ in range(2):
        assert await services.sessions.claims.requeue(await begin(services, session), burnt=True, reason="crashed")
    assert await services.sessions.claims.requeue(await begin(services, session), burnt=True, reason="crashed")
    row = await services.database.reader.get(session.id)
    assert row is not None
    assert (row.status, row.error_code, row.attempt, row.burnt) == (Status.FAILED, "worker_lost", 3, 3)
    assert row.error_retryable


async def test_drained_session_burns_no_attempt(services: Services) -> None:
    """Requeue a session five times without using up an attempt."""
    session = await submit(services)
    for n in range(5):
        assert await services.sessions.claims.requeue(await begin(services, session), burnt=False, reason="drained")
        row = await services.database.reader.get(session.id)
        assert row is not None
        assert (row.status, row.attempt, row.burnt) == (Status.CREATED, n + 1, 0)
        assert await services.queue.contains(session.id, row.attempt, row.enqueues)


@pytest.fixture
def commits(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the transactions that wrote; one word each."""
    seen: list[str] = []
    write = services.database.connections.write

    @contextlib.asynccontextmanager
    async def noted(**options: Any) -> AsyncIterator[Any]:
        async with write(**options) as connection:
            seen.append("write")
            yield connection

    monkeypatch.setattr(services.database.connections, "write", noted)
    return seen


async def test_sessions_of_dead_worker_are_taken_back_in_one_commit(services: Services, commits: list[str]) -> None:
    """One for those that go on, one for those that a client has cancelled meanwhile."""
    sessions = [await submit(services) for _ in range(5)]
    for each in sessions:
        await begin(services, each)
    assert await services.database.writer.request_cancel(sessions[1].id, seq=2)
    async with services.database.connections.write() as connection:
        renewed = tables.sessions.c.id == sessions[4].id
        await connection.execute(
            update(tables.sessions).values(lease_expires_at=tables.sessions.c.created_at).where(~renewed)
        )
    running = [await row(services, each) for each in sessions]
    commits.clear()
    assert await services.sessions.requeueing.take_back(running) == [True, True, True, True, False]
    assert len(commits) == 2
    after = [await row(services, each) for each in sessions]
    ended = [Status.CREATED, Status.CANCELLED, Status.CREATED, Status.CREATED, Status.PROCESSING]
    assert [each.status for each in after] == ended
    for each in after:
        waits = await services.queue.contains(each.id, each.attempt, each.enqueues)
        assert waits == (each.status is Status.CREATED)
    assert await services.sessions.requeueing.take_back(running) == [False] * 5, "once"


async def test_lapsed_lease_proves_nothing_after_a_long_wait(services: Services) -> None:
    """The database was locked meanwhile, and its worker could not renew the lease."""
    session = await submit(services)
    await begin(services, session)
    async with services.database.connections.write() as connection:
        await connection.execute(update(tables.sessions).values(lease_expires_at=tables.sessions.c.created_at))
    running = [await row(services, session)]
    assert await services.sessions.requeueing.take_back(running, patience=0.0) == [False]
    assert (await row(services, session)).status is Status.PROCESSING
    assert await services.sessions.requeueing.take_back(running, patience=600.0) == [True]
