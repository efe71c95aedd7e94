"""Enqueues that fail or come late."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio

from server.services import open_services
from testkit.fixtures import StartValkey
from tests.server.sessions.conftest import MakeConfig, submit


async def test_session_erased_while_enqueued_leaves_no_job(
    config: MakeConfig, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remove the job of a session that is deleted during its enqueue."""
    async with open_services(config()) as services:
        session = await submit(services)
        await services.redis.flushall()
        enqueue = services.queue.enqueue

        async def late(*what: Any, **more: Any) -> int:
            await services.sessions.erasure.delete(session.id, session.owner)
            return await enqueue(*what, **more)

        monkeypatch.setattr(services.queue, "enqueue", late)
        assert await services.sessions.queueing.enqueue_again(session)
        assert [key async for key in services.redis.scan_iter(f"*{session.id}*")] == []
        assert await services.queue.depth() == 0


async def test_ended_session_is_not_enqueued_later(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Forget a failed enqueue when the session is cancelled meanwhile."""
    valkey = start_valkey(persistent=True)
    async with open_services(config(redis_url=valkey.url)) as services:
        valkey.stop()
        session = await submit(services)
        assert services.sessions.queueing._unqueued == {session.id}
        await services.sessions.cancelling.cancel(session.id, session.owner)
        valkey.start()
        await services.sessions.queueing.retry_enqueues()
        assert not services.sessions.queueing._unqueued
        async with redis.asyncio.Redis.from_url(valkey.url) as client:  # knows of no outage
            assert await client.zrange(services.config.queue_name, 0, -1) == []
