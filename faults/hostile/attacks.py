"""Attacks that cost little: connections held, bytes late, nonsense in bulk.

``python -m faults.hostile.attacks PORT NAME`` runs one until it is ended, in a process
of its own, so that its work does not delay the canary that :mod:`.slow` measures with.
It comes from many addresses of this machine, and connects again when it is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import uvloop

from faults.hostile.conversation import BOUNDARY, form, request
from server.system.processes import die_with_parent
from testkit.originals import originals
from tryon.protocol.paths import SESSIONS

READ_BYTES: Final = 2048
"""Receive buffer of a client that does not read."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(port: int, number: int) -> Streams:
    """Connect from one of 250 addresses."""
    return await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(f"127.0.1.{2 + number % 250}", 0), limit=READ_BYTES
    )


def upload(size: int) -> bytes:
    """Return the head of an upload of this many bytes."""
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    head = request("POST", SESSIONS, b"", Content_Type=kind)
    return head.replace(b"Content-Length: 0", b"Content-Length: %d" % size)


async def _drip(streams: Streams, start: bytes, drop: bytes, seconds: float) -> None:
    """Send the start, then a drop now and then, until the connection is cut."""
    _, writer = streams
    writer.write(start)
    while True:
        await asyncio.sleep(seconds)
        writer.write(drop)
        await writer.drain()


async def slow_heads(port: int, number: int) -> None:
    await _drip(await opened(port, number), b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", b"x", 0.5)


async def slow_bodies(port: int, number: int) -> None:
    await _drip(await opened(port, number), upload(10**6), b"x", 0.5)


async def slow_trailers(port: int, number: int) -> None:
    start = b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
    await _drip(await opened(port, number), start, b"x", 0.5)


async def slow_reads(port: int, number: int) -> None:
    """Ask for much again and again, and read nothing."""
    reader, writer = await opened(port, number)
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # no public way to stop reading
    writer.write(b"GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    while True:
        await asyncio.sleep(0.5)
        writer.write(b"\r\n")
        await writer.drain()


async def held(port: int, number: int) -> None:
    """Hold a connection without a word."""
    reader, _ = await opened(port, number)
    await reader.read()


async def sockets(port: int, number: int) -> None:
    """Open WebSockets to sessions that do not exist, one after the other."""
    head = request(
        "GET",
        f"{SESSIONS}/x/ws",
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
    )
    reader, writer = await opened(port, number)
    writer.write(head)
    while await reader.read(4096):
        pass
    await asyncio.sleep(0.2)
    writer.transport.abort()


async def broken_forms(port: int, number: int) -> None:
    """Send 20 MiB of boundaries that are none."""
    reader, writer = await opened(port, number)
    piece = f"\r\n--{BOUNDARY[:-1]}".encode() * 4096
    writer.write(upload(20 * 2**20) + form(b"")[:120])
    with contextlib.suppress(ConnectionError):
        for _ in range(20 * 2**20 // len(piece)):
            writer.write(piece)
            await writer.drain()
    await reader.read(1)
    writer.transport.abort()


async def nested(port: int, number: int) -> None:
    """Upload params that are nested as deep as they are long."""
    reader, writer = await opened(port, number)
    for _ in range(20):
        body = form(originals()["png palette"], b"[" * 4000)
        writer.write(upload(len(body)) + body)
        await reader.read(READ_BYTES)
    writer.transport.abort()


ATTACKS: Final[Mapping[str, tuple[int, Callable[[int, int], Awaitable[None]]]]] = {
    "slow heads": (400, slow_heads),
    "slow bodies": (200, slow_bodies),
    "slow trailers": (200, slow_trailers),
    "slow reads": (200, slow_reads),
    "held connections": (1100, held),
    "sockets to nothing": (100, sockets),
    "broken forms": (4, broken_forms),
    "nested JSON": (4, nested),
}
"""Number of connections at a time, and the attack, by its name."""


async def attack(port: int, name: str) -> None:
    """Keep all connections of an attack up."""
    count, one = ATTACKS[name]

    async def again(number: int) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await one(port, number)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(again(number) for number in range(count)))


if __name__ == "__main__":
    die_with_parent(os.getppid())
    uvloop.run(attack(int(sys.argv[1]), sys.argv[2]))
