"""Connections to Redis by URL."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from redis.asyncio.connection import parse_url

from server.adapters.redis import connect
from server.adapters.redis.connect import Login, login_of, open_redis, open_stream


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("redis://localhost:6379/0", Login()),
        ("redis://:secret@localhost", Login(None, "secret")),
        ("rediss://user:s%40fe@localhost", Login("user", "s@fe")),
        ("unix://user:secret@/run/redis.sock", Login("user", "secret")),
    ],
)
def test_login_comes_from_the_url(url: str, login: Login) -> None:
    """Return user and password, and show neither."""
    assert login_of(url) == login
    assert repr(login_of(url)) == "<Login>"


def test_tls_follows_the_url() -> None:
    """Check the certificate of rediss:// alone, unless the URL says otherwise."""

    def tls(url: str) -> ssl.SSLContext | None:
        return connect._tls(dict[str, Any](parse_url(url)))

    assert tls("redis://localhost") is None
    checked, unchecked = tls("rediss://localhost"), tls("rediss://localhost?ssl_cert_reqs=none")
    assert checked is not None and checked.verify_mode is ssl.CERT_REQUIRED
    assert unchecked is not None and unchecked.verify_mode is ssl.CERT_NONE


async def test_stale_connection_is_replaced(redis_url: str) -> None:
    """Answer a call whose pooled connection the server has closed."""
    client, admin = open_redis(redis_url), open_redis(redis_url)
    try:
        own = await client.client_id()
        await admin.client_kill_filter(_id=str(own))
        assert await client.ping()
        assert await client.client_id() != own
    finally:
        await client.connection_pool.disconnect()
        await admin.connection_pool.disconnect()


async def test_stream_carries_raw_replies(redis_url: str) -> None:
    """Connect a protocol of the caller's to the server that the URL names."""
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Raw(asyncio.Protocol):
        transport: asyncio.BaseTransport

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            answered.set_result(data)

    stream = await open_stream(redis_url, Raw)
    try:
        stream.transport.write(b"PING\r\n")  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            assert await answered == b"+PONG\r\n"
    finally:
        stream.transport.close()


async def test_stream_to_no_server_fails(tmp_path: Any) -> None:
    """Raise OSError where no server listens."""
    with pytest.raises(FileNotFoundError):
        await open_stream(f"unix://{tmp_path}/none", asyncio.Protocol)
