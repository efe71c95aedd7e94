"""Erasure of sessions, also against workers that are about to complete them."""

from __future__ import annotations

import asyncio

import pytest

from server.services import Services
from testkit.running import PHOTO, until
from tests.server.sessions.conftest import MINE, begin, files, submit
from tryon.protocol.errors import NotFound, Unavailable
from tryon.protocol.states import GoneReason


async def test_erasure_leaves_no_file_row_or_key(services: Services) -> None:
    """Erase a completed session with both its photos and its progress."""
    session = await submit(services, garment=PHOTO)
    claim = await begin(services, session)
    await services.sessions.claims.report(claim, 0.5, "rendering")
    await until(lambda: claim.reports.timer is None)
    await services.sessions.claims.complete(claim, b"result", "jpg")
    row = await services.database.reader.get(session.id)
    assert row is not None
    await services.sessions.erasure.erase(row, GoneReason.DELETED)
    assert files(services) == []
    assert await services.database.reader.ids_among([session.id]) == set()
    keys = [key.decode() for key in await services.redis.keys("*")]
    assert not any(session.id in key for key in keys)
    with pytest.raises(NotFound):
        await services.sessions.reads.read(session.id, MINE)


async def test_erasure_finds_results_of_dead_attempts(services: Services) -> None:
    """Delete a result that no row names.

    Its worker was killed after it had stored the file and before its commit.
    """
    session = await submit(services)
    claim = await begin(services, session)
    await services.files.put(f"outputs/{session.id}-1.jpg", b"named by no row")
    assert await services.sessions.claims.requeue(claim, burnt=True, reason="lease_lost")
    await services.sessions.claims.complete(await begin(services, session), b"result", "png")
    row = await services.database.reader.get(session.id)
    assert row is not None
    await services.sessions.erasure.erase(row, GoneReason.DELETED)
    assert files(services) == []


async def test_erasure_during_completion_leaves_nothing(services: Services) -> None:
    """Erase and complete at the same moment, fifteen times."""
    for _ in range(15):
        session = await submit(services)
        claim = await begin(services, session)
        row = await services.database.reader.get(session.id)
        assert row is not None
        completing, _ = await asyncio.gather(
            services.sessions.claims.complete(claim, b"result", "jpg"),
            services.sessions.erasure.erase(row, GoneReason.DELETED),
            return_exceptions=True,
        )
        if isinstance(completing, Unavailable):  # its unfinished file was deleted; a worker tries again
            assert not await services.sessions.claims.complete(claim, b"result", "jpg")
        assert files(services) == []
        assert await services.database.reader.ids_among([session.id]) == set()
