"""The network of a run: the client's port, by connections that can be broken.

They come from chosen addresses. httpx would cost nine times the CPU per request (0.8 ms
instead of 0.09 ms), which a run with thousands of clients does not have. A new
connection for every request costs little on the networks this is for, and lets a load
balancer (or the kernel, where processes share a port) spread them over all web
processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import httptools

from tryon.client.network import Answer, NoAnswer
from tryon.client.websocket import WebSocket, open_websocket

CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 15.0
NO_HEADERS: Final[Mapping[str, str]] = {}
READ_BYTES: Final = 65536
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST, as a network that breaks does, instead
of FIN.
"""


class Exchange:
    """One answer while it arrives: its body comes in pieces."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.headers: dict[str, str] = {}
        self.status = 0
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._head = False
        self._over = False

    def __repr__(self) -> str:
        return f"<Exchange {self.status or 'waiting'}>"

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head = True
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._over = True

    async def _feed(self) -> None:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise NoAnswer(str(error) or type(error).__name__) from None
        if not data:
            raise NoAnswer("the connection was closed")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise NoAnswer(f"not HTTP: {error}") from None

    async def head(self) -> None:
        """Read until the status and headers are there. Raises NoAnswer."""
        while not self._head:
            await self._feed()

    async def piece(self) -> bytes | None:
        """Return the next piece of the body, None after the last. Raises NoAnswer."""
        while not self._body and not self._over:
            await self._feed()
        if not self._body:
            return None
        data = b"".join(self._body)
        self._body.clear()
        return data

    async def rest(self) -> Answer:
        """Return the whole answer. Raises NoAnswer."""
        pieces = []
        while (data := await self.piece()) is not None:
            pieces.append(data)
        return Answer(self.status, self.headers, b"".join(pieces))


class Network:
    """All connections of a run to ``url``.

    ``sources``: local addresses of the clients, used in turn. Raises ValueError for a
    URL of another scheme than HTTP's.
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
        self._open: set[asyncio.WriteTransport] = set()

    def __repr__(self) -> str:
        return f"<Network {self.url} open={len(self._open)}>"

    def line(self, number: int) -> Line:
        """Return the way to the server for client ``number``, from its own address."""
        return Line(self, (self._sources[number % len(self._sources)], 0) if self._sources else None)

    def cut(self, share: float, choice: random.Random) -> int:
        """Break a share of all open connections; return how many."""
        chosen = [each for each in self._open if choice.random() < share]
        for transport in chosen:
            reset(transport)
        return len(chosen)

    async def connect(
        self, source: tuple[str, int] | None, seconds: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a new connection from ``source``. Raises NoAnswer."""
        try:
            async with asyncio.timeout(min(seconds, CONNECT_SECONDS)):
                return await asyncio.open_connection(self._host, self._port, ssl=self._ssl, local_addr=source)
        except (OSError, TimeoutError) as error:
            raise NoAnswer(f"no connection: {error or type(error).__name__}") from None

    def leading_to(self, link: str) -> tuple[Network, str]:
        """Return the network that a link leads to, and the path there.

        A whole URL leads to another server, as presigned links do. Its connections can
        be cut like all others. Raises NoAnswer for a URL of no server.
        """
        if not link.startswith(("http://", "https://")):
            return self, link
        scheme, _, rest = link.partition("://")
        authority, _, path = rest.partition("/")
        try:
            other = Network(f"{scheme}://{authority}")
        except ValueError as error:
            raise NoAnswer(f"a link to no server: {error}") from None
        other._open = self._open
        return other, f"/{path}"

    def head(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """Return the head of a request, with the empty line that ends it."""
        lines = {"Host": self._authority, "Connection": "close", "Accept": "application/json", **headers}
        if body:
            lines["Content-Length"] = str(len(body))
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {self._path}{path} HTTP/1.1\r\n{fields}\r\n".encode("latin-1")

    @contextlib.contextmanager
    def holding(self, transport: asyncio.WriteTransport) -> Iterator[None]:
        """Expose a connection to :meth:`cut` for the block; abort it at the end."""
        self._open.add(transport)
        try:
            yield
        finally:
            self._open.discard(transport)
            transport.abort()


class Line:
    """One client's way to the server, a :class:`tryon.client.network.Network`."""

    __slots__ = ("_network", "_source")

    def __init__(self, network: Network, source: tuple[str, int] | None) -> None:
        self._network = network
        self._source = source

    def __repr__(self) -> str:
        return f"<Line from {self._source} to {self._network.url}>"

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes = b"",
        seconds: float = REQUEST_SECONDS,
        cut_after: int | None = None,
    ) -> AsyncIterator[Exchange]:
        """Send a request and return its answer, whose head arrives within ``seconds``.

        ``path`` may be a whole URL, which is asked from any address of this machine.
        ``cut_after``: break the connection after that many bytes of the body. Raises
        NoAnswer, also inside the block if the connection breaks.
        """
        network, path = self._network.leading_to(path)
        reader, writer = await network.connect(self._source if network is self._network else None, seconds)
        with network.holding(writer.transport):
            exchange = Exchange(reader)
            try:
                writer.write(network.head(method, path, headers, body) + body[:cut_after])
                if cut_after is not None:
                    await writer.drain()
                    reset(writer.transport)
                    raise NoAnswer("cut on purpose")
                async with asyncio.timeout(seconds):
                    await exchange.head()
            except TimeoutError:
                raise NoAnswer("silent") from None
            except OSError as error:
                raise NoAnswer(str(error) or type(error).__name__) from None
            yield exchange

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes = b"",
        seconds: float = REQUEST_SECONDS,
        cut_after: int | None = None,
    ) -> Answer:
        """Return the whole answer, within ``seconds``. Raises NoAnswer."""
        try:
            async with asyncio.timeout(seconds):
                async with self.stream(
                    method, path, headers=headers, body=body, seconds=seconds, cut_after=cut_after
                ) as exchange:
                    return await exchange.rest()
        except TimeoutError:
            raise NoAnswer("silent") from None

    async def behind(self, link: str) -> Answer:
        """Return what a link shows; one that leads to the bucket is followed once.

        Raises NoAnswer.
        """
        answer = await self.request("GET", link)
        bucket = answer.headers.get("location", "") if answer.status == 302 else ""
        return await self.request("GET", bucket) if bucket else answer

    @contextlib.asynccontextmanager
    async def socket(self, path: str, *, subprotocols: Sequence[str], seconds: float) -> AsyncIterator[WebSocket]:
        """Return a WebSocket whose handshake ends within ``seconds``.

        Raises NoAnswer.
        """
        url = self._network.url.replace("http", "ws", 1) + path
        socket = await open_websocket(
            url, subprotocols=subprotocols, seconds=seconds, proxy=None, local_addr=self._source
        )
        with self._network.holding(socket.connection.transport):
            yield socket


def reset(transport: asyncio.WriteTransport) -> None:
    """Break a connection as a network does.

    It sends RST, and nothing that is still to be sent.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()
