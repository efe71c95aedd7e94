"""The memory of a whole web process while one connection sends what it can."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from server.config.settings import Config
from testkit.fixtures import StartStack
from testkit.raw_http import LIVE, Port, raw

MEBIBYTE = 2**20
ALLOWED = 64 * MEBIBYTE

TRAILERS = b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
PAGE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
FLOODS = [
    (TRAILERS, b"a: b\r\n" * 10_000),
    (b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65_536),
    (b"", PAGE * 2_000),
    (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * 10_000),
    (b"", b"\r\n" * 32_768),
]


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


async def test_memory_stays_bounded_whatever_a_connection_sends(
    stack: StartStack, config: Callable[..., Config]
) -> None:
    """38 MiB of trailers, extensions, requests, fields or empty lines are not kept."""
    settings = config()
    env = {"TRYON_DATABASE_URL": settings.database, "TRYON_REDIS_URL": settings.redis}
    process = await stack("serve", ready=False, folder=None, **env)
    server = Port(int((await process.line(r"Listening on http://\S+:(\d+)"))[1]))
    for _ in range(20):
        async with raw(server, LIVE + PAGE) as connection:
            assert (await connection.answer())[0] == 200
            assert (await connection.answer())[0] == 200
    pid = process.process.pid
    before = most = resident_bytes(pid)
    for start, part in FLOODS:
        async with raw(server, start) as connection:
            connection.stop_reading()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    for _ in range(38 * MEBIBYTE // len(part)):
                        await connection.send(part)
                        most = max(most, resident_bytes(pid))
        most = max(most, resident_bytes(pid))
    assert most - before < ALLOWED
