"""Connections to Redis by URL."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from server.adapters.redis.connect import Login, connection_pool, login_of, open_redis, open_stream
from server.adapters.redis.tls import tls_context
from server.config.redis_url import parse_redis_url
from server.system import sockets
from testkit.fixtures import StartValkey
from testkit.proxy import running_proxy
from tests.server.adapters.redis.listening import publisher


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
        return tls_context(parse_redis_url(url))

    assert tls("redis://localhost") is None
    checked, unchecked = tls("rediss://localhost"), tls("rediss://localhost?ssl_cert_reqs=none")
    assert checked is not None and checked.verify_mode is ssl.CERT_REQUIRED and checked.check_hostname
    assert unchecked is not None and unchecked.verify_mode is ssl.CERT_NONE
    unnamed = tls("rediss://localhost?ssl_check_hostname=no")
    assert unnamed is not None and unnamed.verify_mode is ssl.CERT_REQUIRED and not unnamed.check_hostname


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


def tcp_options(connected: socket.socket) -> dict[str, int]:
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    return {name: connected.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names}


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="MISSING: Linux")
async def test_kernel_watches_every_connection(start_valkey: StartValkey) -> None:
    """Bound unacknowledged bytes and send keepalive probes, also of the subscriber."""
    valkey = start_valkey(tcp=True)
    client = open_redis(valkey.tcp_url)
    stream = await open_stream(valkey.tcp_url, Held)
    try:
        assert await client.ping()
        pooled: Any = await client.connection_pool.get_connection()
        for connected in (pooled._writer.get_extra_info("socket"), stream.transport.get_extra_info("socket")):
            assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = tcp_options(connected)
            assert options.pop("TCP_USER_TIMEOUT") == sockets.UNACKNOWLEDGED_MS
            assert options == {name: sockets.KEEPALIVE[name] for name in options}
        await client.connection_pool.release(pooled)
    finally:
        stream.transport.close()
        await client.connection_pool.disconnect()


async def test_dead_connections_cost_one_time_out_together(start_valkey: StartValkey) -> None:
    """Connect anew after the first of many silent connections was found."""
    valkey = start_valkey(tcp=True)
    async with running_proxy(valkey.port) as proxy, publisher(f"redis://127.0.0.1:{proxy.port}/0") as bus:
        await asyncio.gather(*(bus.publish(str(n), b"x") for n in range(10)))  # a connection each
        lost = proxy.black_hole(new=False)
        assert lost > 2
        assert await bus.probe("a", b"lost") is None
        assert await asyncio.gather(*(bus.probe("a", b"arrives") for _ in range(lost))) == [0] * lost


async def test_socket_time_out_gives_up_the_pool(start_valkey: StartValkey) -> None:
    """Replace idle connections after a call that no breaker bounds, such as arq's."""
    valkey = start_valkey(tcp=True)
    async with running_proxy(valkey.port) as proxy:
        pool = connection_pool(f"redis://127.0.0.1:{proxy.port}/0", socket_seconds=0.2)
        client = Redis(connection_pool=pool)
        try:
            await asyncio.gather(*(client.ping() for _ in range(10)))
            lost = proxy.black_hole(new=False)
            assert lost > 2
            assert await client.ping()
            assert all(await asyncio.gather(*(client.ping() for _ in range(lost))))
            assert pool._shared.number == 1
        finally:
            await pool.disconnect()


async def test_connection_to_former_primary_is_replaced(start_valkey: StartValkey) -> None:
    """Connect anew after a refused write: the URL may lead to the new primary."""
    valkey = start_valkey()
    client = open_redis(valkey.url)
    try:
        before = await client.client_id()
        await valkey.command("REPLICAOF", "127.0.0.1", "1")
        assert await client.client_id() == before
        with pytest.raises(ReadOnlyError):
            await client.set("a", 1)
        assert await client.client_id() != before
    finally:
        await client.connection_pool.disconnect()


class Held(asyncio.Protocol):
    """A protocol that keeps its transport."""

    transport: asyncio.BaseTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


async def test_stream_carries_raw_replies(redis_url: str) -> None:
    """Connect a protocol of the caller's to the server that the URL names."""
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Raw(Held):
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
