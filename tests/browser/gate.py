"""A bad network between the browser and the server: a TCP relay.

It cuts, refuses and swallows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

CHUNK_BYTES: Final = 65536


class Gate:
    """A relay to ``target`` on a port of its own.

    It passes every byte on, until a method breaks something.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.refuses = False  #: new connections are closed at once
        self.heads: list[str] = []  #: the first line of each connection's first request
        self._open: set[Relay] = set()

    def __repr__(self) -> str:
        return f"<Gate {self.port} to {self.target} open={len(self._open)}>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, part: str) -> int:
        """How many connections began with a request whose line contains this."""
        return sum(part in head for head in self.heads)

    def cut(self, part: str = "") -> int:
        """Reset open connections, without a close.

        With ``part`` only those that began with such a request.
        """
        cut = [relay for relay in self._open if part in relay.head]
        for relay in cut:
            relay.abort()
        return len(cut)

    def swallow(self) -> None:
        """Drop all output of the connections that are open; they stay open."""
        for relay in self._open:
            relay.swallows = True

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        relay = Relay(writer)
        self._open.add(relay)
        try:
            with contextlib.suppress(OSError):
                await relay.run(reader, self)
        finally:
            self._open.discard(relay)
            relay.abort()


class Relay:
    """One connection."""

    def __init__(self, down: asyncio.StreamWriter) -> None:
        self.head = ""
        self.swallows = False
        self._writers = [down]

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def run(self, reader: asyncio.StreamReader, gate: Gate) -> None:
        first = await reader.read(CHUNK_BYTES)
        self.head = first.partition(b"\r\n")[0].decode(errors="replace")
        gate.heads.append(self.head)
        source, up = await asyncio.open_connection("127.0.0.1", gate.target)
        self._writers.append(up)
        up.write(first)
        tasks = [
            asyncio.create_task(self._copy(reader, up)),
            asyncio.create_task(self._copy(source, self._writers[0])),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in self._writers:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(1):
                        await writer.drain()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self.swallows and writer is self._writers[0]:
                continue
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def open_gate(target: int) -> AsyncIterator[Gate]:
    gate = Gate(target)
    server = await asyncio.start_server(gate.pass_on, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        gate.refuses = True
        server.close()
        gate.cut()
