"""The network of a run keeps the port's contract, and can be broken on purpose."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.chaos.http import Network
from tests.tryon.client.network_contract import NetworkContract, OpenNetwork, raw_server
from tryon.client.network import Network as NetworkPort
from tryon.client.network import NoAnswer


class TestLine(NetworkContract):
    """The contract, by connections of our own."""

    @pytest.fixture
    def open_network(self) -> OpenNetwork:
        @asynccontextmanager
        async def opened(url: str) -> AsyncIterator[NetworkPort]:
            yield Network(url).line(0)

        return opened


async def test_clients_come_from_their_own_addresses() -> None:
    """Use the addresses in turn, client by client."""

    async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("peername")[0].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(address), address))

    async with raw_server(answer) as url:
        network = Network(url, sources=["127.16.7.10", "127.16.7.11"])
        seen = [(await network.line(number).request("GET", "/")).body for number in (0, 1, 2)]
    assert seen == [b"127.16.7.10", b"127.16.7.11", b"127.16.7.10"]


async def test_upload_is_cut_in_its_middle() -> None:
    """Send the first bytes of the body, then reset the connection."""
    seen: list[bytes] = []

    async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(head)
        await reader.read()

    async with raw_server(answer) as url:
        with pytest.raises(NoAnswer, match="on purpose"):
            await Network(url).line(0).request("POST", "/", body=b"x" * 100, cut_after=50)


async def test_cut_breaks_open_streams() -> None:
    """Break a stream that is being read, and forget it."""

    async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await reader.read()

    async with raw_server(answer) as url:
        network = Network(url)
        async with network.line(0).stream("GET", "/") as stream:
            assert await stream.piece() == b"one"
            assert network.cut(1.0, random.Random(1)) == 1
            with pytest.raises(NoAnswer):
                await stream.piece()
        assert network.cut(1.0, random.Random(1)) == 0
