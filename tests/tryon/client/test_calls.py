"""Calls are repeated where that helps, and where their answer exists more than once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.tryon.client.network_contract import Handler, raw_server
from tryon.client.calls import Calls
from tryon.client.http import HttpNetwork
from tryon.client.problems import Problem

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GATEWAY = b"HTTP/1.1 %d Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>"
OWN = b'HTTP/1.1 503 No\r\nContent-Length: 42\r\n\r\n{"code": "unavailable", "retryable": true}'


class Server:
    """A server that gives each request the next answer of a list.

    An empty one closes the connection without an answer.
    """

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    async def __call__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answers.pop(0))
        await writer.drain()


@pytest.fixture
def chance() -> random.Random:
    """Return a chance that always draws the lower bound: no pause."""

    class Shortest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return a

    return Shortest()


async def call(server: Handler, method: str, chance: random.Random) -> object:
    """Return the answer to a call of three attempts."""
    async with raw_server(server) as url:
        network = HttpNetwork(url, trust_env=False)
        try:
            return await Calls(network, "t", attempts=3, seconds=5, chance=chance).session(dict, method)
        finally:
            await network.close()


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_gateway_error_is_repeated(chance: random.Random, status: int) -> None:
    """Repeat a call that a proxy could not pass on."""
    server = Server(GATEWAY % status, OK)
    assert await call(server, "GET", chance) == {}
    assert not server.answers


@pytest.mark.parametrize(("lost", "code"), [(b"", "network"), (GATEWAY % 502, "unknown")])
async def test_delete_is_not_repeated_unanswered(chance: random.Random, lost: bytes, code: str) -> None:
    """Raise the lost answer itself, not the 404 of a repeat."""
    server = Server(lost, OK)
    with pytest.raises(Problem) as raised:
        await call(server, "DELETE", chance)
    assert raised.value.code == code
    assert server.answers == [OK]


async def test_delete_is_repeated_after_the_servers_refusal(chance: random.Random) -> None:
    """Repeat a deletion that the server says it did not carry out."""
    assert await call(Server(OWN, OK), "DELETE", chance) == {}


@pytest.fixture
async def slow_calls() -> AsyncIterator[Calls]:
    """Return calls of two seconds to a server that needs longer for a body."""

    async def slow(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"POST"):
            for _ in range(6):
                await reader.readexactly(65_536)
                await asyncio.sleep(0.4)
            writer.write(OK)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.4)

    async with raw_server(slow) as url:
        network = HttpNetwork(url, trust_env=False)
        yield Calls(network, "t", attempts=1, seconds=2, chance=random.Random())
        await network.close()


async def test_slow_download_may_outlast_the_timeout(slow_calls: Calls) -> None:
    """Wait as long as pieces keep coming."""
    assert await slow_calls.file("/") == b"xxxxxx"


async def test_slow_upload_may_outlast_the_timeout(slow_calls: Calls) -> None:
    """Give a large body the time of a slow connection."""
    assert await slow_calls.session(dict, "POST", body=bytes(6 * 65_536)) == {}


@asynccontextmanager
async def leading(link: str = "") -> AsyncIterator[tuple[Calls, list[bytes]]]:
    """Yield calls to a server whose links lead to a bucket, and what the bucket heard.

    ``link``: where they lead instead.
    """
    heard: list[bytes] = []

    async def bucket(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture")

    async with raw_server(bucket) as other:
        location = (link or f"{other}/tryon/x.jpg?X-Amz-Signature=1").encode()

        async def server(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

        async with raw_server(server) as url:
            network = HttpNetwork(url, trust_env=False)
            yield Calls(network, "the-token", attempts=1, seconds=5, chance=random.Random()), heard
            await network.close()


async def test_download_follows_a_link_to_the_bucket() -> None:
    """Return the bucket's bytes; the token stays with the server."""
    async with leading() as (calls, heard):
        assert await calls.file("/api/tryon/files/x.jpg?signature=1") == b"picture"
    assert len(heard) == 1
    head = heard[0].lower()
    assert head.startswith(b"get /tryon/x.jpg?x-amz-signature=1 ")
    assert b"the-token" not in head
    assert b"authorization" not in head


@pytest.mark.parametrize("link", ["/api/tryon/files/y.jpg", "file:///etc/passwd", "ftp://bucket/x.jpg"])
async def test_download_follows_no_other_redirect(link: str) -> None:
    """Fail on a link that is no presigned one, and ask nothing."""
    async with leading(link) as (calls, heard):
        with pytest.raises(Problem) as raised:
            await calls.file("/api/tryon/files/x.jpg")
    assert raised.value.status == 302
    assert heard == []
