"""The contract of the port ``tryon.client.network``.

A test module derives from :class:`NetworkContract` and gives the fixture
``open_network``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tryon.client.network import Network, NoAnswer, SocketClosed, SocketRefused

OpenNetwork = Callable[[str], AbstractAsyncContextManager[Network]]
Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(answer: Handler) -> AsyncIterator[str]:
    """Serve each connection with ``answer``; yield the URL.

    ``answer`` gets the head of the request, the reader and the writer.
    """

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await answer(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        writer.close()

    async with await asyncio.start_server(serve_one, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def sending(*pieces: bytes) -> Handler:
    """Return a handler that sends these bytes and closes the connection."""

    async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return answer


async def silence(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing until the client leaves."""
    await reader.read()


@contextlib.asynccontextmanager
async def websocket_server(
    talk: Callable[[ServerConnection], Awaitable[None]], refusal: tuple[int, str] | None = None
) -> AsyncIterator[str]:
    """Serve WebSockets; ``refusal``: a status and a Retry-After instead."""

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        if refusal is None:
            return None
        response = connection.respond(refusal[0], "")
        response.headers["Retry-After"] = refusal[1]
        return response

    async with serve(
        talk,
        "127.0.0.1",
        0,
        subprotocols=["tryon.v1"],  # type: ignore[list-item]  # a NewType of str
        process_request=refuse,
        compression=None,
    ) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


class NetworkContract:
    """Derive from this, and give the fixture ``open_network``."""

    async def test_request_returns_the_whole_answer(self, open_network: OpenNetwork) -> None:
        """Return status, headers by their names in lower case, and the body."""
        head = b"HTTP/1.1 429 Too Many Requests\r\nETag: x\r\nRetry-After: 7\r\nContent-Length: 24\r\n\r\n"
        async with raw_server(sending(head, b'{"code":"rate', b'_limited"} ')) as url, open_network(url) as network:
            answer = await network.request("GET", "/a", headers={}, seconds=5)
        assert (answer.status, answer.headers["etag"], answer.code) == (429, "x", "rate_limited")
        assert answer.retry_after == 7
        assert len(answer.body) == 24

    async def test_request_sends_method_path_headers_body(self, open_network: OpenNetwork) -> None:
        """Send the request as given, with the length of its body."""
        seen: list[bytes] = []

        async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.extend((head, await reader.readexactly(5)))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        async with raw_server(answer) as url, open_network(url) as network:
            done = await network.request("POST", "/a?b=c%2Fd", headers={"X-Word": "yes"}, body=b"hello", seconds=5)
        head, body = seen
        assert (done.status, done.body, body) == (204, b"", b"hello")
        assert head.startswith(b"POST /a?b=c%2Fd HTTP/1.1\r\n")
        assert b"x-word: yes" in head.lower()
        assert b"content-length: 5" in head.lower()

    async def test_redirect_is_not_followed(self, open_network: OpenNetwork) -> None:
        """Return a redirect as it is."""
        head = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
        async with raw_server(sending(head)) as url, open_network(url) as network:
            assert (await network.request("GET", "/", headers={}, seconds=5)).status == 302

    async def test_stream_of_a_whole_url_asks_its_server(self, open_network: OpenNetwork) -> None:
        """Ask the server that a link leads to, by the path and query it names."""
        seen: list[bytes] = []

        async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbucket")

        async with (
            raw_server(silence) as url,
            raw_server(answer) as bucket,
            open_network(url) as network,
            network.stream("GET", f"{bucket}/a%2Fb?c=%3D", headers={}, seconds=5) as stream,
        ):
            assert (stream.status, await stream.piece()) == (200, b"bucket")
        head = seen[0]
        assert head.startswith(b"GET /a%2Fb?c=%3D HTTP/1.1\r\n")
        assert f"host: {bucket.removeprefix('http://')}\r\n".encode() in head.lower()

    async def test_redirected_handshake_is_not_followed(self, open_network: OpenNetwork) -> None:
        """Refuse it: the other server would get the token among the subprotocols."""
        offered: list[str] = []

        async def talk(connection: ServerConnection) -> None:
            assert connection.request is not None
            offered.append(connection.request.headers["Sec-WebSocket-Protocol"])

        async with websocket_server(talk) as other:
            location = other.replace("http", "ws", 1).encode()
            head = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
            async with raw_server(sending(head)) as url, open_network(url) as network:
                with pytest.raises(SocketRefused) as refused:
                    async with network.socket("/", subprotocols=["tryon.v1", "tryon.bearer.x"], seconds=5):
                        pass
        assert (refused.value.status, offered) == (302, [])

    async def test_missing_server_is_no_answer(self, open_network: OpenNetwork) -> None:
        """Raise NoAnswer, whichever way the server is asked."""
        async with raw_server(silence) as url:
            pass
        async with open_network(url) as network:
            with pytest.raises(NoAnswer):
                await network.request("GET", "/", headers={}, seconds=5)
            with pytest.raises(NoAnswer):
                async with network.stream("GET", "/", headers={}, seconds=5):
                    pass
            with pytest.raises(NoAnswer):
                async with network.socket("/", subprotocols=["tryon.v1"], seconds=5):
                    pass

    async def test_silent_server_is_no_answer_in_time(self, open_network: OpenNetwork) -> None:
        """Give up after the seconds allowed."""
        async with raw_server(silence) as url, open_network(url) as network, asyncio.timeout(5):
            with pytest.raises(NoAnswer):
                await network.request("GET", "/", headers={}, seconds=0.05)
            with pytest.raises(NoAnswer):
                async with network.stream("GET", "/", headers={}, seconds=0.05):
                    pass
            with pytest.raises(NoAnswer):
                async with network.socket("/", subprotocols=["tryon.v1"], seconds=0.05):
                    pass

    @pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", b"nonsense\r\n\r\n"])
    async def test_broken_answer_is_no_answer(self, open_network: OpenNetwork, sent: bytes) -> None:
        """Raise NoAnswer for a head that breaks off or is not HTTP."""
        async with raw_server(sending(sent)) as url, open_network(url) as network:
            with pytest.raises(NoAnswer):
                await network.request("GET", "/", headers={}, seconds=5)

    async def test_stream_hands_over_pieces_as_they_come(self, open_network: OpenNetwork) -> None:
        """Return a piece before the next one is sent, and None at the end."""
        go = asyncio.Event()

        async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nX-Word: yes\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            await go.wait()
            writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

        async with (
            raw_server(answer) as url,
            open_network(url) as network,
            network.stream("GET", "/", headers={}, seconds=5) as stream,
        ):
            assert (stream.status, stream.headers["x-word"]) == (200, "yes")
            assert await stream.piece() == b"one"
            go.set()
            assert [await stream.piece(), await stream.piece()] == [b"two", None]

    async def test_stream_that_breaks_is_no_answer(self, open_network: OpenNetwork) -> None:
        """Raise NoAnswer for a body that breaks off."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none"
        async with (
            raw_server(sending(head)) as url,
            open_network(url) as network,
            network.stream("GET", "/", headers={}, seconds=5) as stream,
        ):
            assert await stream.piece() == b"one"
            with pytest.raises(NoAnswer):
                await stream.piece()

    async def test_leaving_a_stream_disconnects(self, open_network: OpenNetwork) -> None:
        """Close the connection of a stream that was not read to its end."""
        left = asyncio.Event()

        async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            left.set()

        async with raw_server(answer) as url, open_network(url) as network, AsyncExitStack() as stack:
            stream = await stack.enter_async_context(network.stream("GET", "/", headers={}, seconds=5))
            assert await stream.piece() == b"one"
            await stack.aclose()
            async with asyncio.timeout(5):
                await left.wait()

    async def test_errors_inside_a_block_stay_themselves(self, open_network: OpenNetwork) -> None:
        """Raise what the caller's own code raises, also a time-out."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none"
        async with raw_server(sending(head)) as url, open_network(url) as network:
            with pytest.raises(TimeoutError):
                async with network.stream("GET", "/", headers={}, seconds=5):
                    raise TimeoutError

    async def test_reset_stream_is_no_answer(self, open_network: OpenNetwork) -> None:
        """Raise NoAnswer from the read that meets the reset."""

        async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none")
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await asked.wait()
            writer.transport.abort()

        asked = asyncio.Event()
        async with (
            raw_server(answer) as url,
            open_network(url) as network,
            network.stream("GET", "/", headers={}, seconds=5) as stream,
        ):
            assert await stream.piece() == b"one"
            asked.set()
            with pytest.raises(NoAnswer):
                await stream.piece()

    async def test_socket_carries_messages_both_ways(self, open_network: OpenNetwork) -> None:
        """Offer subprotocols, carry messages, and raise the close code at the end."""

        async def talk(connection: ServerConnection) -> None:
            await connection.send(f"{connection.subprotocol} {connection.request.path if connection.request else ''}")
            await connection.send(f"heard {await connection.recv()!r}")
            await connection.close(4000)

        async with (
            websocket_server(talk) as url,
            open_network(url) as network,
            network.socket("/ws?a=b", subprotocols=["tryon.v1", "x"], seconds=5) as socket,
        ):
            assert await socket.receive() == "tryon.v1 /ws?a=b"
            await socket.send("hello")
            assert await socket.receive() == "heard 'hello'"
            with pytest.raises(SocketClosed) as closed:
                await socket.receive()
            await socket.send("too late")
        assert closed.value.code == 4000

    async def test_socket_that_breaks_has_code_1006(self, open_network: OpenNetwork) -> None:
        """Raise 1006 where no close frame came."""

        async def talk(connection: ServerConnection) -> None:
            connection.transport.abort()

        async with (
            websocket_server(talk) as url,
            open_network(url) as network,
            network.socket("/", subprotocols=["tryon.v1"], seconds=5) as socket,
        ):
            with pytest.raises(SocketClosed) as closed:
                await socket.receive()
        assert closed.value.code == 1006

    async def test_refused_handshake_has_status_and_retry_after(self, open_network: OpenNetwork) -> None:
        """Raise the HTTP status of a refused handshake, and the seconds it names."""

        async def talk(connection: ServerConnection) -> None:
            raise AssertionError("refused before")

        async with websocket_server(talk, (503, "2")) as url, open_network(url) as network:
            with pytest.raises(SocketRefused) as refused:
                async with network.socket("/", subprotocols=["tryon.v1"], seconds=5):
                    pass
        assert (refused.value.status, refused.value.retry_after) == (503, 2)
