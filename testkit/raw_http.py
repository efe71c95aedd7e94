"""A bare HTTP client that sends bytes as they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

LIVE = b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Listening(Protocol):
    """A server on this machine, such as a :class:`~testkit.running.Web`."""

    @property
    def port(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Port:
    """A server of which only the port is known."""

    port: int


class Raw:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send; a server that has closed the connection is no error."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    def stop_reading(self) -> None:
        """Leave the answers where they are; :attr:`reader` still takes some."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it

    async def answer(self) -> tuple[int, bytes]:
        """Return the status and the body of the next answer, which has a length."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            sizes = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            body = await self.reader.readexactly(int(sizes[0].partition(b":")[2])) if sizes else b""
        return int(head.split()[1]), body

    async def rest(self) -> bytes:
        """Return everything up to the end of the connection, also if it is a reset."""
        parts: list[bytes] = []
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while part := await self.reader.read(65536):
                    parts.append(part)
        return b"".join(parts)


@contextlib.asynccontextmanager
async def raw(server: Listening, *parts: bytes, source: str = "127.0.0.1") -> AsyncIterator[Raw]:
    """Connect, and send these parts one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(source, 0))
    connection = Raw(reader, writer)
    try:
        for part in parts:
            await connection.send(part)
        yield connection
    finally:
        writer.close()
        if writer.transport.get_write_buffer_size():  # the server does not read it
            writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def heard(server: Listening, *parts: bytes) -> bytes:
    """Send these parts, and return everything up to the end of the connection."""
    async with raw(server, *parts) as connection:
        return await connection.rest()
