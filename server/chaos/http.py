"""The way to a running system: requests and streams over one connection each, from
several addresses if there are any.

A new connection for every request costs little on the networks this is for, and lets a
load balancer (or the kernel, where processes share a port) spread them over all web
processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS: Final = 5.0
READ_BYTES: Final = 65536
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST, as a network that breaks does, instead
of FIN.
"""


class NoAnswer(Exception):
    """The connection was refused, broke, or stayed silent for too long."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a refusal (RFC 9457); empty if there is none."""
        with contextlib.suppress(ValueError, AttributeError):
            return str(self.json().get("code", ""))
        return ""

    @property
    def retry_after(self) -> float | None:
        """Seconds, if it says so."""
        try:
            return max(0.0, float(self.headers["retry-after"]))
        except (KeyError, ValueError):
            return None


class Exchange:
    """One answer while it arrives: the head is there, the body comes in pieces."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.headers: dict[str, str] = {}
        self.status = 0
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._head = False
        self._over = False

    # called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head = True
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._over = True

    # called by us

    async def _feed(self) -> None:
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise NoAnswer("the connection was closed")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise NoAnswer(f"not HTTP: {error}") from None

    async def head(self) -> None:
        while not self._head:
            await self._feed()

    async def piece(self) -> bytes | None:
        """The next of the body; None: that was all."""
        while not self._body and not self._over:
            await self._feed()
        if not self._body:
            return None
        data = b"".join(self._body)
        self._body.clear()
        return data

    async def rest(self) -> Answer:
        pieces = []
        while (data := await self.piece()) is not None:
            pieces.append(data)
        return Answer(self.status, self.headers, b"".join(pieces))


class Network:
    """All connections of a run to ``url``.

    ``sources``: local addresses to come from, person by person.
    """

    def __init__(self, url: str, *, sources: Sequence[str] = ()) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an address like https://staging.example")
        self.url = url.rstrip("/")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2]
        self._sources = sources
        self._open: set[asyncio.BaseTransport] = set()

    def __repr__(self) -> str:
        return f"<Network {self.url} open={len(self._open)}>"

    def source(self, number: int) -> tuple[str, int] | None:
        return (self._sources[number % len(self._sources)], 0) if self._sources else None

    def websocket_url(self, path: str) -> str:
        return self.url.replace("http", "ws", 1) + path

    @contextlib.contextmanager
    def holding(self, transport: asyncio.BaseTransport) -> Any:
        """While open, :meth:`cut` may hit this connection."""
        self._open.add(transport)
        try:
            yield
        finally:
            self._open.discard(transport)
            if isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "abort"):
                transport.abort()

    def cut(self, share: float, choice: random.Random) -> int:
        """Break a share of all open connections; how many."""
        chosen = [each for each in self._open if choice.random() < share]
        for transport in chosen:
            reset(transport)
        return len(chosen)

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        *,
        number: int = 0,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        seconds: float = 15.0,
        cut_after: int | None = None,
    ) -> AsyncIterator[Exchange]:
        """Send a request; the answer's head is there within ``seconds``.

        ``cut_after``: break the connection after so many bytes of the body. Raises
        NoAnswer, also from inside the block where reading on fails.
        """
        try:
            async with asyncio.timeout(min(seconds, CONNECT_SECONDS)):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._ssl, local_addr=self.source(number)
                )
        except (OSError, TimeoutError) as error:
            raise NoAnswer(f"no connection: {error or type(error).__name__}") from None
        with self.holding(writer.transport):
            lines = {"Host": self._authority, "Connection": "close", "Accept": "application/json", **(headers or {})}
            if body:
                lines["Content-Length"] = str(len(body))
            head = f"{method} {self._path}{path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
            try:
                writer.write(head.encode("latin-1") + b"\r\n" + body[:cut_after])
                if cut_after is not None:
                    await writer.drain()
                    reset(writer.transport)
                    raise NoAnswer("cut on purpose")
                exchange = Exchange(reader)
                async with asyncio.timeout(seconds):
                    await exchange.head()
                yield exchange
            except TimeoutError:
                raise NoAnswer("silent") from None
            except OSError as error:
                raise NoAnswer(str(error) or type(error).__name__) from None

    async def request(self, method: str, path: str, *, seconds: float = 15.0, **more: Any) -> Answer:
        """The whole answer, within ``seconds``. Raises NoAnswer."""
        try:
            async with asyncio.timeout(seconds):
                async with self.exchange(method, path, seconds=seconds, **more) as exchange:
                    return await exchange.rest()
        except TimeoutError:
            raise NoAnswer("silent") from None


def reset(transport: asyncio.BaseTransport) -> None:
    """Break a connection as a network does:

    RST, and nothing that is still to be sent.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()  # type: ignore[attr-defined]  # every transport of a socket has it
