"""A TCP proxy that breaks its connections: cuts, refusals, delays and silence.

Linux's ``tc netem`` does this better where it is available; this needs no rights and
works per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from testkit.processes import free_port

CHUNK_BYTES = 65536
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Pair:
    """One connection through the proxy.

    ``said``: the first bytes of its client, to know what it is. ``lost``: nothing
    passes any more, not even the end of the connection.
    """

    __slots__ = ("client", "lost", "said", "server")

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, *, lost: bool) -> None:
        self.client = client
        self.server = server
        self.said = b""
        self.lost = lost

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """A proxy to ``127.0.0.1:<to>``: it forwards, until a method breaks something."""

    SAID_BYTES = 4096

    def __init__(self, to: int) -> None:
        self._to = to
        self._pairs: set[_Pair] = set()
        self._deaf: Callable[[bytes], bool] = lambda said: False
        self._forbidden: Callable[[bytes], bool] = lambda said: False
        self._refusal = FORBIDDEN
        self._black_hole = False
        self._swallowed: set[asyncio.StreamWriter] = set()
        """Connections that were opened in a black hole; nothing is behind them."""
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        """One task for each connection."""
        self.port = 0
        self.delay_seconds = 0.0
        """Time by which every piece is late, in both directions."""

    def __repr__(self) -> str:
        return f"<Proxy {self.port} -> {self._to} open={len(self._pairs)}>"

    async def start(self) -> None:
        """Listen, again on the same port after :meth:`refuse`."""
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        await self.refuse()
        self.cut()
        await asyncio.gather(*self._serving)

    async def refuse(self) -> None:
        """Listen no more; open connections stay. :meth:`start` listens again."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> int:
        """Abort every connection (RST); how many."""
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cut()
        for writer in self._swallowed:
            writer.transport.abort()
        return len(pairs) + len(self._swallowed)

    def lead_to(self, port: int) -> None:
        """Forward new connections to another port; open ones stay."""
        self._to = port

    def forbid(self, which: Callable[[bytes], bool], answer: bytes = FORBIDDEN) -> None:
        """Answer these requests with 403, as a proxy does that knows no WebSockets.

        ``answer``: instead of that; if it is empty, the connection is closed.
        Each piece that a client sends is judged: a connection may be used again.
        """
        self._forbidden, self._refusal = which, answer

    def deafen(self, which: Callable[[bytes], bool] = lambda said: True) -> None:
        """Drop the server's answers to these clients, on old and new connections.

        Clients are judged by their first bytes.
        """
        self._deaf = which

    def hear(self) -> None:
        self._deaf = lambda said: False

    def black_hole(self, *, new: bool = True) -> int:
        """Lose every byte of the open connections for good; return their number.

        As if the machine behind them had vanished: neither end gets an RST or learns
        that the other has closed. ``new``: also on connections that are opened before
        :meth:`mend`, which are accepted and never answered.
        """
        self._black_hole = new
        alive = [pair for pair in self._pairs if not pair.lost]
        for pair in alive:
            pair.lost = True
        return len(alive)

    def mend(self) -> None:
        """Forward new connections again; those that were lost stay so."""
        self._black_hole = False

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._black_hole:
            await self._swallow(reader, writer)
            return
        try:
            upstream, server = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, server, lost=self._black_hole)
        self._pairs.add(pair)
        try:
            ways = [
                asyncio.create_task(self._pass_on(reader, server, pair, up=True)),
                asyncio.create_task(self._pass_on(upstream, writer, pair, up=False)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if pair.lost:  # the other end must not learn of it
                await asyncio.wait(ways)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._pairs.discard(pair)
            pair.cut()

    async def _swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._swallowed.add(writer)
        try:
            with contextlib.suppress(OSError):
                while await reader.read(CHUNK_BYTES):
                    pass
        finally:
            self._swallowed.discard(writer)
            writer.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if pair.lost:
                    continue
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if up:
                    pair.said = (pair.said + data)[: self.SAID_BYTES]
                    if self._forbidden(data):
                        pair.client.write(self._refusal)
                        await pair.client.drain()
                        return
                elif self._deaf(pair.said):
                    continue
                writer.write(data)
                await writer.drain()


def subscribes(said: bytes) -> bool:
    """For :meth:`Proxy.deafen`: a connection to Redis that subscribes."""
    return b"SUBSCRIBE" in said  # in capitals: not the name that it has given itself


def upgrades(said: bytes) -> bool:
    """For :meth:`Proxy.forbid`: a request for a WebSocket."""
    return b"upgrade: websocket" in said.lower()


@contextlib.asynccontextmanager
async def running_proxy(to: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(to)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
