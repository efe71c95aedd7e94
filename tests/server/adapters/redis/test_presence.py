"""Web processes say what they have open, and are forgotten when they fall silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from server.adapters.redis.connect import open_redis
from server.adapters.redis.presence import PRESENCE_SECONDS, Presence, WebPresence


@asynccontextmanager
async def opened(redis_url: str) -> AsyncIterator[Redis]:
    redis = open_redis(redis_url)
    try:
        yield redis
    finally:
        await redis.connection_pool.disconnect()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with opened(redis_url) as redis:
        yield redis


async def test_living_processes_are_found(redis: Redis) -> None:
    """Each as it was when it wrote last, until it leaves."""
    presence = Presence(redis, key_prefix="t:")
    assert await presence.all() == {}
    assert await presence.note("a:1:00", WebPresence("1.0", {"ws": 3}, 0))
    assert await presence.note("b:2:00", WebPresence("1.0", {}, 1))
    assert await presence.note("a:1:00", WebPresence("1.0", {"ws": 4, "sse": 1}, 0))
    found = await presence.all()
    assert found is not None
    assert {name: each.sockets for name, (_, each) in found.items()} == {"a:1:00": {"ws": 4, "sse": 1}, "b:2:00": {}}
    await presence.drop("a:1:00")
    assert list(await presence.all() or ()) == ["b:2:00"]
    assert 0 < await redis.ttl("t:webs") <= PRESENCE_SECONDS


async def test_silent_and_foreign_entries_are_left_out(redis: Redis) -> None:
    """A process that was killed is removed by the next reader."""
    presence = Presence(redis, key_prefix="t:")
    await presence.note("a:1:00", WebPresence("1.0", {}, 0))
    now = (await redis.time())[0]
    await redis.zadd("t:webs", {'killed:1:00 {"version":"1","sockets":{},"operators":0}': now - 60})
    await redis.zadd("t:webs", {"newer:1:00 [1, 2]": now, "odd": now})
    assert list(await presence.all() or ()) == ["a:1:00"]
    await presence.note("a:1:00", WebPresence("1.0", {"ws": 1}, 0))
    assert await redis.zcard("t:webs") == 3  # without the killed one


async def test_presence_is_unknown_without_redis() -> None:
    """None, and no error: the page says so."""
    async with opened("redis://127.0.0.1:1/0") as nowhere:
        presence = Presence(nowhere, key_prefix="t:")
        assert not await presence.note("a:1:00", WebPresence("1.0", {}, 0))
        await presence.drop("a:1:00")
        assert await presence.all() is None
