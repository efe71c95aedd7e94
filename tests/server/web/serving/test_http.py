"""Heads of requests: their size, their time, and upgrades."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from typing import Final

import httpx
import pytest

from server.web.serving.heads import MAX_HEAD_BYTES
from server.web.serving.http import HttpProtocol
from testkit.running import Web, until
from testkit.values import new_session_id
from tryon.protocol.paths import SESSIONS


async def exchange(web: Web, *parts: bytes, seconds: float = 5.0) -> bytes:
    """Send these bytes over a bare connection, and return all bytes that come back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    try:
        async with asyncio.timeout(seconds):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def assert_raw_problem(heard: bytes, status: int) -> None:
    """Check a problem that was read as bytes."""
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), heard[:200]
    problem = json.loads(body)
    assert (problem["status"], problem["code"], problem["title"]) == (status, "bad_request", "Bad request")
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    headers = httpx.Headers([(name, value) for name, _, value in lines])
    assert headers["Content-Type"] == "application/problem+json"
    assert int(headers["Content-Length"]) == len(body)
    assert problem["request_id"] == headers["X-Request-ID"]


REQUEST: Final = b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n"
AN_UPGRADE: Final = (
    b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["finished", "unfinished"])
@pytest.mark.parametrize("first", [b"", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"])
async def test_huge_head_is_431(web: Web, first: bytes, end: bytes) -> None:
    """Megabytes of headers are cut off, and their memory is released."""
    with contextlib.suppress(ConnectionError):  # the server may have closed before all was sent
        heard = await exchange(web, first, REQUEST, b"X-Long: ", *[b"x" * 65_536] * 20, end)
        assert_raw_problem(heard[heard.rindex(b"HTTP/1.1") :], 431)
    await until(lambda: not _http_connections())


def _http_connections() -> list[HttpProtocol]:
    return [one for one in gc.get_objects() if type(one) is HttpProtocol and one._place is not None]


async def test_head_size_is_checked_in_one_piece(web: Web) -> None:
    """A head that arrives in one piece has the same limit."""
    most = REQUEST + b"Connection: close\r\nX-Long: " + b"x" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\n"
    assert (await exchange(web, most)).startswith(b"HTTP/1.1 200 ")
    assert_raw_problem(await exchange(web, REQUEST + b"X: y\r\n" * 12_000 + b"\r\n"), 431)


async def test_large_body_is_not_counted_as_head(web: Web) -> None:
    """Even when both arrive in one piece, with the next head right behind."""
    body = b"x" * 200_000
    first = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + body + REQUEST
    heard = await exchange(web, first, b"Connection: close\r\n\r\n")
    assert heard.startswith(b"HTTP/1.1 404 ") and b"HTTP/1.1 200 " in heard


@pytest.mark.parametrize("start", [b"G", REQUEST, b"\r\n", b"GET /" + AN_UPGRADE])
async def test_unfinished_head_is_refused(web: Web, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    """A head that does not end in time is a 408, or a 400 without its blank line."""
    monkeypatch.setattr("server.web.serving.phases.HEAD_SECONDS", 0.2)
    heard = await exchange(web, start)
    assert_raw_problem(heard, 408 if b"/" + AN_UPGRADE not in start else 400)


async def test_trickling_head_is_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line now and then does not extend the time of a head."""
    monkeypatch.setattr("server.web.serving.phases.HEAD_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(REQUEST)

    async def trickle() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(5):
        assert_raw_problem(await reader.read(), 408)
    trickling.cancel()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_slow_answer_is_not_a_slow_head(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a head ends with the head."""
    monkeypatch.setattr("server.web.serving.phases.HEAD_SECONDS", 0.1)
    session, token = await web.submit()
    answer = await web.client.get(f"{SESSIONS}/{session.id}?since=1&wait=1", headers={"X-Client-Token": token})
    assert answer.status_code == 304
    assert (await web.client.get("/api/health/live")).status_code == 200  # over the same connection


async def test_silent_connection_is_closed(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a byte is closed like one that is idle."""
    monkeypatch.setattr("server.web.serving.phases.IDLE_SECONDS", 0.1)
    assert await exchange(web) == b""


async def test_other_protocol_is_400(web: Web) -> None:
    """Bytes that are not HTTP get a problem as their answer."""
    assert_raw_problem(await exchange(web, b"\x16\x03\x01 hello\r\n\r\n"), 400)


@pytest.mark.parametrize(
    "head",
    [
        b"GET %s HTTP/1.0\r\n" + AN_UPGRADE,
        b"POST %s HTTP/1.1\r\n" + AN_UPGRADE,
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE + b"Sec-WebSocket-Version: 13\r\n",
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"b25jZQ", b"b25*ZQ"),
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"Host: x\r\n", b""),
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"Version: 13", b"Version: 12"),
    ],
    ids=["HTTP/1.0", "POST", "two versions", "no base64", "no host", "short key", "no key", "version 12"],
)
async def test_invalid_upgrade_is_4xx(web: Web, head: bytes) -> None:
    """Each violation of the opening handshake (RFC 6455 section 4.2.1) is refused."""
    heard = await exchange(web, head % f"{SESSIONS}/{new_session_id()}/ws".encode() + b"\r\n")
    assert heard.startswith(b"HTTP/1.1 4"), heard[:100]
    assert heard.count(b"HTTP/1.1 4") == 1


async def test_unknown_websocket_version_is_426(web: Web) -> None:
    """The refusal names version 13 (RFC 6455 section 4.4)."""
    head = b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"Version: 13", b"Version: 12")
    heard = await exchange(web, head % f"{SESSIONS}/{new_session_id()}/ws".encode() + b"\r\n")
    assert_raw_problem(heard, 426)
    assert b"\r\nsec-websocket-version: 13\r\n" in heard.lower()
    assert b"\r\nupgrade: websocket\r\n" in heard.lower()


async def test_pipelined_upgrade_waits_for_the_answer(web: Web) -> None:
    """An upgrade does not overtake the request before it."""
    path = f"{SESSIONS}/{new_session_id()}/ws".encode()
    first = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"
    heard = await exchange(web, first + b"GET %s HTTP/1.1\r\n" % path + AN_UPGRADE + b"\r\n")
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert heard.index(b"HTTP/1.1 101 ") > heard.index(b'{"status"')
    assert b'"code":4504' in heard
