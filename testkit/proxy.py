"""A TCP proxy that breaks its connections: silence in one direction, cuts.

Linux's ``tc netem`` does this better where it is available; this needs no rights and
works per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

CHUNK_BYTES = 65536


class _Pair:
    """One connection through the proxy.

    ``said``: the first bytes of its client, to know what it is.
    """

    __slots__ = ("client", "said", "server")

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.said = b""

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
        self._server: asyncio.Server | None = None
        self.port = 0

    def __repr__(self) -> str:
        return f"<Proxy {self.port} -> {self._to} open={len(self._pairs)}>"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        await self.refuse()
        self.cut()

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
        return len(pairs)

    def deafen(self, which: Callable[[bytes], bool] = lambda said: True) -> None:
        """Drop the server's answers to these clients, on old and new connections.

        Clients are judged by their first bytes.
        """
        self._deaf = which

    def hear(self) -> None:
        self._deaf = lambda said: False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, server)
        self._pairs.add(pair)
        try:
            ways = [
                asyncio.create_task(self._pass_on(reader, server, pair, up=True)),
                asyncio.create_task(self._pass_on(upstream, writer, pair, up=False)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._pairs.discard(pair)
            pair.cut()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if up:
                    pair.said = (pair.said + data)[: self.SAID_BYTES]
                elif self._deaf(pair.said):
                    continue
                writer.write(data)
                await writer.drain()


def subscribes(said: bytes) -> bool:
    """For :meth:`Proxy.deafen`: a connection to Redis that subscribes."""
    return b"SUBSCRIBE" in said  # in capitals: not the name that it has given itself


@contextlib.asynccontextmanager
async def running_proxy(to: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(to)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
