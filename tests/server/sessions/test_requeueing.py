"""Sessions that go back to the queue, and the limit of their attempts."""

from __future__ import annotations

from server.services import Services
from tests.server.sessions.conftest import begin, submit
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
