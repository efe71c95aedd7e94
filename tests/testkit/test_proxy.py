"""The proxy that breaks connections: what each end learns of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from testkit.proxy import Proxy, running_proxy


class Echo:
    """A server that answers each line with the same line, and counts connections."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.began = 0
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.began += 1
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(line)
        writer.close()
        self.ended += 1


class Client:
    """A client of the proxy that reads and writes lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes) -> bytes:
        """Return the answer, or the end of the connection as no bytes."""
        self.writer.write(line)
        async with asyncio.timeout(10):
            return await self.reader.readline()

    async def hears_nothing(self, line: bytes) -> bool:
        self.writer.write(line)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await self.reader.read(1)
        return not self.reader.at_eof()


class Behind:
    """A proxy in front of an echo server, and its clients."""

    def __init__(self, proxy: Proxy, echo: Echo) -> None:
        self.proxy = proxy
        self.echo = echo
        self.clients = contextlib.AsyncExitStack()

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self.clients.callback(writer.close)
        return Client(reader, writer)

    async def ends(self, count: int) -> None:
        """Wait until the server has seen this many connections end."""
        async with asyncio.timeout(10):
            while self.echo.ended < count:
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def echo_behind_proxy() -> AsyncIterator[Behind]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with running_proxy(server.sockets[0].getsockname()[1]) as proxy:
        behind = Behind(proxy, echo)
        async with behind.clients:
            yield behind
    server.close()
    await behind.ends(echo.began)


async def test_black_hole_swallows_open_and_new_connections() -> None:
    """Neither an old nor a new connection gets a byte or an end; later ones do."""
    async with echo_behind_proxy() as behind:
        old = await behind.connect()
        assert await old.ask(b"before\n") == b"before\n"

        assert behind.proxy.black_hole() == 1
        new = await behind.connect()
        assert await old.hears_nothing(b"lost\n")
        assert await new.hears_nothing(b"lost too\n")

        behind.proxy.mend()
        assert await (await behind.connect()).ask(b"after\n") == b"after\n"
        assert await old.hears_nothing(b"still lost\n")
        assert await new.hears_nothing(b"still lost\n")
        assert behind.echo.lines == [b"before\n", b"after\n"]


async def test_black_hole_spares_new_connections_when_asked() -> None:
    """As after a fail-over: the old machine is silent, the new one answers."""
    async with echo_behind_proxy() as behind:
        old = await behind.connect()
        await old.ask(b"before\n")
        behind.proxy.black_hole(new=False)
        assert await (await behind.connect()).ask(b"new\n") == b"new\n"
        assert await old.hears_nothing(b"lost\n")


async def test_black_hole_hides_the_end_of_a_connection() -> None:
    """The server does not learn that a client in the black hole has closed."""
    async with echo_behind_proxy() as behind:
        old = await behind.connect()
        await old.ask(b"before\n")
        behind.proxy.black_hole(new=False)
        old.writer.close()
        await old.writer.wait_closed()

        later = await behind.connect()
        await later.ask(b"after\n")
        later.writer.close()
        await behind.ends(1)
        assert (behind.echo.began, behind.echo.ended) == (2, 1)


async def test_cut_ends_connections_in_the_black_hole() -> None:
    """Both ends learn of it, as they do when a test is over."""
    async with echo_behind_proxy() as behind:
        old = await behind.connect()
        await old.ask(b"before\n")
        behind.proxy.black_hole()
        new = await behind.connect()
        assert await new.hears_nothing(b"lost\n")

        assert behind.proxy.cut() == 2
        for client in (old, new):
            with contextlib.suppress(ConnectionError):
                assert await client.ask(b"lost\n") == b""
        await behind.ends(1)
