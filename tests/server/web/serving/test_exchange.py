"""One request and its answer, as every version and every client frames them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from server.config.settings import Config
from server.web.serving.http import MAX_WAITING_BYTES, HttpProtocol
from server.web.serving.listening import listen
from server.web.serving.server import make_server
from server.web.serving.unanswered import Unanswered
from testkit.raw_http import LIVE, Port, heard, raw
from testkit.running import Web, until
from testkit.uploads import picture
from tryon.protocol.paths import SESSIONS

READ_BYTES = 256 * 1024
"""The most that asyncio reads at once."""

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


def upload(*fields: bytes, chunked: bool = False, target: bytes = SESSIONS.encode(), version: bytes = b"1.1") -> bytes:
    """Return an upload with these header fields."""
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + picture() + b"\r\n--x--\r\n"
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    if chunked:
        body = b"%x;a=b\r\n%b\r\n0\r\nAuthorization: Bearer %b\r\n\r\n" % (len(body), body, b"t" * 32)
    head = b"POST %b HTTP/%b\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n" % (target, version)
    return head + b"".join(fields) + framing + b"\r\n\r\n" + body


@pytest.mark.parametrize("chunked", [False, True])
async def test_h2c_offer_is_ignored_on_an_upload(web: Web, chunked: bool) -> None:
    """Java and curl offer HTTP/2 with every request; the body is read all the same."""
    async with raw(web, upload(H2C, chunked=chunked) + LIVE.replace(b"Host", H2C + b"Host")) as connection:
        assert (await connection.answer())[0] == 201
        assert (await connection.answer())[0] == 200


@pytest.mark.parametrize("offer", [b"h2c", b"TLS/1.0, HTTP/2.0", b"websockets", b"foo", b""])
async def test_other_upgrades_are_ignored(web: Web, offer: bytes) -> None:
    """An upgrade is an offer, and only a WebSocket is taken (RFC 9110 section 7.8)."""
    async with raw(web, LIVE.replace(b"Host", b"Connection: upgrade\r\nUpgrade: " + offer + b"\r\nHost")) as connection:
        assert (await connection.answer())[0] == 200


async def test_trailer_is_no_header_field(web: Web) -> None:
    """A token among the trailers authenticates nothing."""
    async with raw(web, upload(chunked=True)) as connection:
        status, body = await connection.answer()
    assert status == 201
    assert b'"client_token"' in body, "the upload had no token, so the server made one"


async def test_absolute_target_is_served(web: Web) -> None:
    """A request that names the whole URL is the same request."""
    base = b"http://127.0.0.1:%d" % web.port
    async with raw(web, LIVE.replace(b"/api", base + b"/api"), upload(target=base + SESSIONS.encode())) as connection:
        assert (await connection.answer())[0] == 200
        assert (await connection.answer())[0] == 201


async def test_expected_continue_is_sent(web: Web) -> None:
    """A client that waits before it sends the body is asked for it."""
    head, _, body = upload(b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    async with raw(web, head + b"\r\n\r\n") as connection:
        assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(body)
        assert (await connection.answer())[0] == 201


# -- HTTP/1.0 and lengths --------------------------------------------------------------


async def stream(request: Request) -> Response:
    """Answer without a length, or as the query says."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b""
        yield b"two"

    if "status" in request.query_params:
        return Response(status_code=int(request.query_params["status"]))
    return StreamingResponse(parts())


@pytest.fixture
async def small() -> AsyncIterator[Port]:
    """Serve an application that answers with a stream."""
    config = Config(port=0)
    listener = listen(config, reuse_port=False)
    app = Starlette(routes=[Route("/", stream)])
    app.state.unanswered = Unanswered()
    server = make_server(app, config)
    serving = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started)
    yield Port(listener.getsockname()[1])
    server.should_exit = True
    await serving


@pytest.mark.parametrize("fields", [b"", b"Connection: keep-alive\r\n"])
async def test_http_1_0_gets_no_chunks(small: Port, fields: bytes) -> None:
    """The end of the connection is the end of an answer without a length."""
    answer = await heard(small, b"GET / HTTP/1.0\r\n" + fields + b"\r\n")
    head, _, body = answer.lower().partition(b"\r\n\r\n")
    assert body == b"onetwo"
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head


async def test_http_1_1_gets_chunks_and_goes_on(small: Port) -> None:
    """A kept connection needs chunks; empty parts do not end them."""
    answer = await heard(
        small, b"GET / HTTP/1.1\r\nHost: x\r\n\r\nHEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    first, second = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert first.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert second.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
async def test_answer_without_body_has_no_framing(small: Port, status: int) -> None:
    """Such an answer ends with its head (RFC 9112 section 6.3)."""
    answer = await heard(small, b"GET /?status=%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % status)
    assert answer.endswith(b"\r\n\r\n")
    assert b"transfer-encoding" not in answer.lower()


async def test_http_1_0_keeps_a_connection_when_asked(web: Web) -> None:
    """The answer says so, and has a length."""
    ask = b"GET /api/health/live HTTP/1.0\r\n"
    answer = await heard(web, ask + b"Connection: keep-alive\r\n\r\n" + ask + b"\r\n")
    first, second = answer.lower().split(b"http/1.1 200 ok\r\n")[1:]
    assert b"connection: keep-alive\r\n" in first
    assert b"connection: close\r\n" in second


# -- pipelining ------------------------------------------------------------------------


async def test_next_request_waits_for_the_answer(web: Web) -> None:
    """A request behind one that waits does not begin, and nothing is answered twice."""
    session, token = await web.submit()
    poll = f"GET {SESSIONS}/{session.id}?since=1&wait=20 HTTP/1.1\r\nHost: x\r\nX-Client-Token: {token}\r\n\r\n"
    async with raw(web, poll.encode() + LIVE * 3) as connection:
        await until(lambda: web.unanswered)
        assert len(web.unanswered) == 1
        await web.begin(session)
        assert [(await connection.answer())[0] for _ in range(4)] == [200, 200, 200, 200]


@pytest.mark.parametrize("behind", [b"", LIVE, LIVE[:20], LIVE * 100])
async def test_request_learns_of_the_end_of_its_connection(web: Web, behind: bytes) -> None:
    """A client that leaves is forgotten, whatever it had sent behind its request."""
    session, token = await web.submit()
    follow = f"GET {SESSIONS}/{session.id}/events HTTP/1.1\r\nHost: x\r\nX-Client-Token: {token}\r\n\r\n"
    async with raw(web, follow.encode() + behind):
        await until(lambda: web.hub.followers)
    await until(lambda: not web.hub.followers)
    await until(lambda: not web.unanswered)


async def test_pipelined_bytes_that_wait_are_bounded(web: Web) -> None:
    """Behind a request that waits the server stops to read."""
    session, token = await web.submit()
    follow = f"GET {SESSIONS}/{session.id}/events HTTP/1.1\r\nHost: x\r\nX-Client-Token: {token}\r\n\r\n"
    async with raw(web, follow.encode()) as connection:
        await until(lambda: web.hub.followers)
        flooding = asyncio.create_task(connection.send(LIVE * 500_000))
        await until(lambda: [waiting for waiting in waiting_bytes() if waiting > MAX_WAITING_BYTES])
        for _ in range(20):  # turns of the loop in which it would read on
            await asyncio.sleep(0)
            assert max(waiting_bytes()) <= MAX_WAITING_BYTES + READ_BYTES
        flooding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flooding


def waiting_bytes() -> list[int]:
    """Return how many bytes wait on each connection."""
    return [one._incoming.waiting for one in gc.get_objects() if type(one) is HttpProtocol]
