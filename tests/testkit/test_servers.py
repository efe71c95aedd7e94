"""The servers and the browser of the fixtures."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
import redis.asyncio
from playwright.async_api import Page

from testkit.fixtures import StartValkey
from testkit.servers import PostgresServer


async def test_valkey_is_empty_for_each_test(redis_url: str) -> None:
    """And the next test does not see this one's key."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set("left behind", 1)


async def test_valkey_is_empty_for_next_test(redis_url: str) -> None:
    """The key of the test before is gone."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0


async def test_persistent_valkey_keeps_data_over_crash(start_valkey: StartValkey) -> None:
    """With ``persistent`` and fsync on each write."""
    server = start_valkey(tcp=True, persistent=True, options=("--appendfsync", "always"))
    async with redis.asyncio.Redis.from_url(server.tcp_url) as client:
        await client.set("kept", "yes")
    server.kill()
    server.start()
    async with redis.asyncio.Redis.from_url(server.tcp_url) as client:
        assert await client.get("kept") == b"yes"


async def test_paused_valkey_answers_when_resumed(start_valkey: StartValkey) -> None:
    """A frozen server keeps its connections."""
    server = start_valkey()
    async with (
        redis.asyncio.Redis.from_url(server.url) as client,
        redis.asyncio.Redis.from_url(server.url, socket_timeout=0.1) as impatient,
    ):
        before = await client.client_id()
        server.pause()
        with pytest.raises(redis.RedisError, match="Timeout"):
            await impatient.ping()
        server.resume()
        assert await client.client_id() == before


async def test_paused_postgres_answers_when_resumed(postgres: PostgresServer, empty_postgres_url: str) -> None:
    """Each of its processes stops, the one of an open connection too."""
    connection = await asyncpg.connect(empty_postgres_url.replace("+asyncpg", ""))
    try:
        postgres.pause()
        asked = asyncio.create_task(connection.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([asked], timeout=0.3)
        postgres.resume()
        assert await asked == 1
        assert not done, "its own process went on"
    finally:
        postgres.resume()
        await connection.close()


async def test_postgres_database_is_empty_for_each_test(empty_postgres_url: str) -> None:
    """It has no table."""
    connection = await asyncpg.connect(empty_postgres_url.replace("+asyncpg", ""))
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_stat_user_tables") == 0
    finally:
        await connection.close()


@pytest.mark.xdist_group("chromium")
async def test_browser_renders_page(page: Page) -> None:
    """A real Chromium shows a heading."""
    await page.set_content("<h1>hello</h1>")
    assert await page.inner_text("h1") == "hello"
