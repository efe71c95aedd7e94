"""Requests as bytes over bare connections: no client library mends them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Final

ANSWER_SECONDS: Final = 60.0
"""Longest wait for the answer to a whole request: longer, and it was never answered."""
IMPATIENCE_SECONDS: Final = 0.25
"""Wait for the answer to a request that may be unfinished."""

_addresses = itertools.cycle(range(2, 250))


class Connection:
    """One connection, from one of many addresses of this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def __repr__(self) -> str:
        return f"<Connection {self._writer.get_extra_info('sockname')}>"

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; return status and body of its answer.

        Raises ConnectionError if the connection ends before the end of the answer, and
        TimeoutError.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            self._writer.write(request)
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
                body = await self._reader.readexactly(content_length(head))
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                raise ConnectionError(f"no whole answer: {error}") from error
        return status_of(head), body

    async def say(self, data: bytes, seconds: float = IMPATIENCE_SECONDS) -> bytes:
        """Send bytes; return what comes back until the end or the time is over."""
        heard = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                self._writer.write(data)
                while piece := await self._reader.read(65536):
                    heard += piece
        return heard


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Connect to a port of this machine; cut the connection at the end."""
    source = (f"127.0.0.{next(_addresses)}", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


def status_of(answer: bytes) -> int:
    """Return the status of an answer, 0 for bytes that are none."""
    words = answer[:16].split(b" ")
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit() else 0


def content_length(head: bytes) -> int:
    """Return the bytes of the body that follows a head."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def request(method: str, path: str, body: bytes = b"", **fields: str) -> bytes:
    """Return a request; the names of fields have underscores for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


BOUNDARY: Final = "----hostile"


def form(photo: bytes, params: bytes = b'{"said":"hello"}') -> bytes:
    """Return the multipart body of an upload."""
    return (
        (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode()
        + photo
        + (f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="params"\r\n\r\n').encode()
        + params
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )
