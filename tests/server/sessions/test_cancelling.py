"""Requests to cancel a session that moves on meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from server.services import Services
from tests.server.sessions.conftest import begin, status, submit
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status


async def test_cancel_gives_up_after_ten_turns(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer Unavailable when the session moved on each time it was tried."""
    session, turns = await submit(services), 0

    async def lost(change: Any) -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(services.sessions.transitions, "apply", lost)
    with pytest.raises(Unavailable) as failure:
        await services.sessions.cancelling.cancel(session.id, session.owner)
    assert failure.value.retry_after == 1
    assert turns == 10
    assert await status(services, session) == (Status.CREATED, 1)


async def test_cancel_follows_a_session_that_moves_on(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the worker to stop when it claims the session during the request."""
    session = await submit(services)
    apply = services.sessions.transitions.apply

    async def late(change: Any) -> Any:
        await begin(services, session)
        return await apply(change)

    monkeypatch.setattr(services.sessions.transitions, "apply", late)
    outcome = await services.sessions.cancelling.cancel(session.id, session.owner)
    assert outcome.pending
    assert outcome.view.status is Status.PROCESSING
