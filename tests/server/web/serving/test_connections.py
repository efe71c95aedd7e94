"""Limits of connections: per address and process, with a reserve for health."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable

import pytest

from server.config.settings import Config
from server.web.serving.connections import RESERVED_CONNECTIONS, RESERVED_PER_ADDRESS, Connections, Place
from server.web.serving.heads import HeadParser
from server.web.serving.http import HttpProtocol
from testkit.raw_http import LIVE, Raw, heard, raw
from testkit.running import StartWeb, Web, until
from tryon.protocol.errors import RateLimited, Unavailable

MISSING = LIVE.replace(b"/api/health/live", b"/nothing")


def places(config: Config) -> tuple[Connections, Callable[..., Place | None]]:
    """Return limits, and a function that admits a connection to a process of one."""
    connections = Connections(config)
    return connections, lambda peer, total=1, now=0.0: connections.admit(peer, total, now)


def test_address_has_its_limit() -> None:
    """One more than the limit is a reserved place; one that leaves makes room."""
    connections, admit = places(Config(connections_per_address=2))
    first, second, third = (admit("192.0.2.1") for _ in range(3))
    assert first is not None
    assert second is not None
    assert (first.error, second.error) == (None, None)
    assert third is not None
    assert isinstance(third.error, RateLimited)
    assert third.error.limit == "connections_per_address"
    other = admit("192.0.2.2")
    assert other is not None
    assert other.error is None
    connections.leave(first)
    connections.leave(third)
    again = admit("192.0.2.1")
    assert again is not None
    assert again.error is None


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", False),
    ],
)
def test_addresses_of_one_client_count_together(one: str, other: str, together: bool) -> None:
    """An IPv6 client has its /64, an IPv4 address has two forms, a Unix socket none."""
    _, admit = places(Config(connections_per_address=1))
    admit(one)
    second = admit(other)
    assert second is not None
    assert (second.error is not None) is together


@pytest.mark.parametrize("peer", ["10.0.0.7", "::ffff:10.0.0.7", "fd00::1"])
def test_trusted_proxy_has_no_limit_of_its_own(peer: str) -> None:
    """What comes through it is counted by the forwarded address."""
    networks = tuple(ipaddress.ip_network(network) for network in ("10.0.0.0/8", "fd00::/8"))
    _, admit = places(Config(connections_per_address=1, trusted_proxies=networks))
    assert [admit(peer) for _ in range(9)] == [Place("")] * 9


def test_process_has_its_limit_and_its_reserve() -> None:
    """Above the limit some are asked, and the rest is cut; sockets count, too."""
    _, admit = places(Config(connections_per_process=100))
    assert admit("192.0.2.1", 100) == Place("192.0.2.1")
    reserved = [admit(f"192.0.2.{n}", 101 + n) for n in range(RESERVED_CONNECTIONS)]
    assert all(place is not None and isinstance(place.error, Unavailable) for place in reserved)
    assert admit("192.0.3.1", 101 + RESERVED_CONNECTIONS) is None


@pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::{:x}"])
def test_reserve_is_shared(peer: str) -> None:
    """One client has a few of the reserved places; one of IPv6 has its /64."""
    _, admit = places(Config(connections_per_address=1))
    found = [admit(peer.format(n)) for n in range(1 + RESERVED_PER_ADDRESS + 1)]
    assert found[-1] is None
    assert None not in found[:-1]


def test_process_limit_stays_below_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting above the limit of open files counts for nothing."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (1000, 1000))
    for config in (Config(), Config(connections_per_process=5000)):
        _, admit = places(config)
        below, above = admit("192.0.2.1", 1000 - 512), admit("192.0.2.2", 1000 - 511)
        assert below is not None
        assert below.error is None
        assert above is not None
        assert above.error is not None


def test_refused_connections_are_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """An attack is a line every ten seconds, with its number."""
    _, admit = places(Config(connections_per_address=1))
    with caplog.at_level(logging.WARNING, logger="tryon.web"):
        for now in (0.0, 1.0, 2.0, 9.0, 11.0, 12.0):
            admit("192.0.2.1", 1, now)
    assert [message.rpartition(";")[2] for message in caplog.messages] == [
        " 1 refused since the last such line",
        " 3 refused since the last such line",
    ]
    assert "192.0.2.1 has 1 (TRYON_CONNECTIONS_PER_ADDRESS)" in caplog.messages[0]


def _open() -> list[HttpProtocol]:
    return [one for one in gc.get_objects() if type(one) is HttpProtocol and one._place is not None]


# -- with real connections -------------------------------------------------------------


@pytest.mark.parametrize(("setting", "status"), [("connections_per_address", 429), ("connections_per_process", 503)])
async def test_held_connections_leave_health_reachable(start_web: StartWeb, setting: str, status: int) -> None:
    """An address that holds all it may have locks nobody out of the health."""
    web = await start_web(**{setting: 5})
    async with contextlib.AsyncExitStack() as stack:
        held: list[Raw] = [await stack.enter_async_context(raw(web, LIVE)) for _ in range(5)]
        assert [(await one.answer())[0] for one in held] == [200] * 5
        for path in (b"/api/health", b"/api/health/live", b"/api/health/ready"):
            answer = await heard(web, LIVE.replace(b"/api/health/live", path))
            assert b'"status":"' in answer, "the health itself, whatever it is on a busy machine"
            assert b"connection: close" in answer.lower()
        refusal = await heard(web, MISSING)
        assert refusal.startswith(b"HTTP/1.1 %d " % status)
        assert b"retry-after:" in refusal.lower()
    await until(lambda: not _open())
    assert (await heard(web, MISSING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).startswith(
        b"HTTP/1.1 404 "
    )


async def test_request_without_a_peer_is_not_served(start_web: StartWeb, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that was reset before it is accepted has no address to count for.

    Its request can still be read, and no peer would pass for a trusted proxy.
    """
    web = await start_web(trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"),))
    with caplog.at_level(logging.INFO, logger="tryon.web"):
        with socket.create_connection(("127.0.0.1", web.port)) as reset:
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reset.send(MISSING.replace(b"Host: x", b"Host: x\r\nX-Forwarded-For: 192.0.2.66"))
        async with raw(web, MISSING) as next_one:
            assert (await next_one.answer())[0] == 404
    assert caplog.text.count("GET /nothing") == 1
    assert "192.0.2.66" not in caplog.text


async def test_connection_and_its_requests_leave_no_cycles(web: Web) -> None:
    """Reference counts free them: thousands that reconnect cost no collections."""
    gc.collect()
    before = {kind: _all(kind) for kind in (HeadParser, HttpProtocol)}  # held: what other tests left stays
    gc.disable()
    try:
        session, token = await web.submit()
        async with raw(web, LIVE * 3) as connection, web.follow(session.id, token) as follower:
            await follower.next()
            assert [(await connection.answer())[0] for _ in range(3)] == [200] * 3
            await until(lambda: len(_all(HeadParser)) == len(before[HeadParser]))
        await until(lambda: len(_all(HttpProtocol)) == len(before[HttpProtocol]))
    finally:
        gc.enable()


def _all(kind: type) -> list[object]:
    return [one for one in gc.get_objects() if type(one) is kind]


async def test_other_address_is_served_meanwhile(start_web: StartWeb) -> None:
    """The limit of one address is no limit of another."""
    web = await start_web(connections_per_address=2)
    async with raw(web), raw(web), raw(web, LIVE, source="127.0.0.2") as other:
        assert (await other.answer())[0] == 200


async def test_reserved_connection_is_short(start_web: StartWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent connection above the limits ends soon."""
    monkeypatch.setattr("server.web.serving.http.RESERVED_SECONDS", 0.1)
    web = await start_web(connections_per_address=1)
    async with raw(web):
        assert await heard(web) == b""
        assert (await heard(web, LIVE[:-2])).startswith(b"HTTP/1.1 408 ")


async def test_socket_leaves_the_connections_of_its_address(start_web: StartWeb) -> None:
    """After its handshake a WebSocket counts with the sockets."""
    web = await start_web(connections_per_address=1)
    session, token = await web.submit()
    async with web.follow(session.id, token) as first:
        await first.next()
        async with web.follow(session.id, token) as second, raw(web, LIVE) as connection:
            await second.next()
            assert (await connection.answer())[0] == 200
