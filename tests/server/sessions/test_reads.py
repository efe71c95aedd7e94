"""Reads by owners, holders of tickets and strangers."""

from __future__ import annotations

import pytest

from server.domain.tokens import new_token
from server.services import Services
from server.sessions.reads import Credential
from testkit.values import new_session_id
from tests.server.sessions.conftest import MINE, begin, submit
from tryon.protocol.errors import NotFound, Unauthorized


async def test_read_needs_the_owner_or_a_ticket(services: Services) -> None:
    """Refuse a stranger like an unknown id, and a bad ticket by name."""
    session = await submit(services)
    now = int(services.database.clock.now())
    assert (await services.sessions.reads.read(session.id, MINE)).session.id == session.id
    ticket = services.signer.ticket(session.id, expires=now + 60)
    assert (await services.sessions.reads.read(session.id, Credential(ticket=ticket))).access.until == now + 60
    for stranger in (Credential(), Credential.of_token(new_token())):
        with pytest.raises(NotFound):
            await services.sessions.reads.read(session.id, stranger)
    for bad in ("", "x", services.signer.ticket(session.id, expires=now - 1)):
        with pytest.raises(Unauthorized):
            await services.sessions.reads.read(session.id, Credential(ticket=bad))
    for id in (new_session_id(), "garbage", "", "../x", session.id.upper() + " "):
        with pytest.raises(NotFound):
            await services.sessions.reads.read(id, MINE)


async def test_foreign_read_asks_redis_nothing(services: Services) -> None:
    """Hide in the response time, too, whether an id is unknown or foreign."""
    session = await submit(services)
    await begin(services, session)
    await services.sessions.reads.read(session.id, MINE)
    before = await services.redis.info("commandstats")
    for _ in range(5):
        with pytest.raises(NotFound):
            await services.sessions.reads.read(session.id, Credential.of_token(new_token()))
    after = await services.redis.info("commandstats")
    assert after["cmdstat_hget"]["calls"] == before["cmdstat_hget"]["calls"]
