"""Clients of a WebSocket: one that is refused, and one that sends any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from server.web.transports.ws_frames import CLOSE, TEXT
from testkit.running import Client, Web
from tests.server.web.transports.test_ws_frames import masked

WRONG = "wrong-" + "w" * 40


async def refused(web: Web, session_id: str, token: str | None = None, query: str = "", **options: Any) -> Client:
    """Connect a client that is accepted, sent the reason and closed; return it."""
    async with web.follow(session_id, token, query, **options) as client:
        await client.rest()
    assert client.types == ["error", "bye"]
    assert client.frames[1]["code"] == client.connection.close_code
    assert client.frames[1]["reconnect"] is (client.frames[1]["code"] < 4500)
    return client


def assert_denied(refusal: InvalidStatus, status: int, code: str) -> None:
    """Check a refusal before the handshake: a problem like that of any request."""
    answer = refusal.response
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.body or b"")
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["X-Request-ID"]


async def slow_read(web: Web, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold all reads of sessions until the event is set; return the event."""
    look, gate = web.services.sessions.reads.read, asyncio.Event()

    async def wait(*args: Any, **options: Any) -> Any:
        await gate.wait()
        return await look(*args, **options)

    monkeypatch.setattr(type(web.services.sessions.reads), "read", staticmethod(wait))
    return gate


class Raw:
    """A WebSocket client that may send any bytes at any moment."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload."""
        first, length = await self.reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await self.reader.readexactly(2), "big")
        return first & 0x0F, await self.reader.readexactly(length)

    async def until_closed(self) -> int:
        """Read up to the close frame and return its code."""
        async with asyncio.timeout(10):
            while True:
                opcode, payload = await self.frame()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2], "big")


def upgrade(session_id: str, token: str, headers: str = "") -> bytes:
    """Return the head of a WebSocket's handshake."""
    return (
        f"GET /api/tryon/sessions/{session_id}/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Client-Token: {token}\r\n"
        f"{headers}\r\n"
    ).encode()


@contextlib.asynccontextmanager
async def raw(web: Web, session_id: str, token: str, early: bytes = b"", headers: str = "") -> AsyncIterator[Raw]:
    """Connect and yield a raw client.

    ``early`` is sent in one piece with the head, before anything was answered.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(upgrade(session_id, token, headers) + early)
    try:
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


PING_TEXT = masked(TEXT, b'{"type":"ping"}')
