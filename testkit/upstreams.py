"""A model's HTTP server on loopback, which answers as a test tells it to.

It speaks HTTP/1.1 over real sockets, one request for each connection, and can do what
a real one does on a bad day: be slow, end in the middle, send events one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole."""

    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    """By names in small letters."""
    body: bytes = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered: ``body``, then the pieces of ``stream`` as they come."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None
    length: int | None = None
    """The length that is announced; None: the true one. A connection that ends before
    it is one that was lost.
    """

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> Reply:
        """Return a JSON answer; ``_`` in a header's name stands for ``-``."""
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **names})


Handler: TypeAlias = Callable[[Request], Awaitable[Reply]]


class UpstreamServer:
    """A server at :attr:`url` that gives every request to ``handler``.

    ``requests`` are those that have arrived, in their order.
    """

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        self.requests: list[Request] = []

    def __repr__(self) -> str:
        return f"<UpstreamServer {self.url} requests={len(self.requests)}>"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for each in list(self._connections):
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def asked(self, method: str, path: str) -> list[Request]:
        """Return the requests of this method whose path begins like this."""
        return [each for each in self.requests if each.method == method and each.path.startswith(path)]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # Cancelled at the end alone: Python 3.11 would complain of it.
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        pairs = (line.split(":", 1) for line in head[1:] if line)
        headers = {name.strip().lower(): text.strip() for name, text in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(method, path, headers, body)
        self.requests.append(request)
        reply = await self._handler(request)
        shown = {"Connection": "close"} | reply.headers
        if reply.stream is None:
            shown["Content-Length"] = str(len(reply.body) if reply.length is None else reply.length)
        lines = [f"HTTP/1.1 {reply.status} x", *(f"{name}: {text}" for name, text in shown.items()), "", ""]
        writer.write("\r\n".join(lines).encode("latin-1") + reply.body)
        await writer.drain()
        if reply.stream is not None:
            async with contextlib.aclosing(reply.stream) as pieces:
                async for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
