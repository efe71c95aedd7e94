"""Clients that read slowly: cut below the floor, and no memory is held for them."""

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
from starlette.types import Receive, Scope, Send

from server.config.settings import Config
from server.web.serving import pace, phases
from server.web.serving.http import HttpProtocol
from server.web.serving.listening import listen
from server.web.serving.pace import Pace
from server.web.serving.server import make_server
from server.web.serving.unanswered import Unanswered
from testkit.raw_http import Port, raw
from testkit.running import until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PART = bytes(64 * 1024)


class Endless:
    """An application whose answer never ends; it counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0

    async def answer(self, request: Request) -> Response:
        self.begun += 1
        return Counted(self)

    async def page(self, request: Request) -> Response:
        self.begun += 1
        return Response(PART * 4)


@contextlib.asynccontextmanager
async def serving(endless: Endless) -> AsyncIterator[Port]:
    config = Config(port=0)
    listener = listen(config, reuse_port=False)
    app = Starlette(routes=[Route("/", endless.answer), Route("/page", endless.page)])
    app.state.unanswered = Unanswered()
    server = make_server(app, config)
    task = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield Port(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task


class Counted(StreamingResponse):
    """An answer without an end of its own."""

    def __init__(self, endless: Endless) -> None:
        super().__init__(self._parts())
        self._endless = endless

    async def _parts(self) -> AsyncIterator[bytes]:
        while True:
            yield PART

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._endless.ended += 1


def connections() -> list[HttpProtocol]:
    """Return the connections that are open."""
    return [one for one in gc.get_objects() if type(one) is HttpProtocol and one._place is not None]


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale the window; the floor of a window stays."""
    monkeypatch.setattr(pace, "WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(phases, "IDLE_SECONDS", 0.2)


@pytest.mark.parametrize("bytes_at_once", [0, 100])
async def test_client_below_the_floor_is_cut(bytes_at_once: int) -> None:
    """An answer that is not taken, or in crumbs, ends, and its application hears it."""
    endless = Endless()
    async with serving(endless) as server, raw(server, GET) as connection:
        connection.stop_reading()

        async def sip() -> None:
            while bytes_at_once:
                await connection.reader.read(bytes_at_once)
                await asyncio.sleep(0.02)

        sipping = asyncio.create_task(sip())
        await until(lambda: endless.ended)
        sipping.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sipping


class FakeTransport(asyncio.Transport):
    """A transport whose client takes as much as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(("taken", "cut"), [(pace.FLOOR_BYTES, False), (pace.FLOOR_BYTES - 1, True)])
async def test_floor_holds_in_each_window(monkeypatch: pytest.MonkeyPatch, taken: int, cut: bool) -> None:
    """What a client took in an earlier window does not count."""
    monkeypatch.setattr(pace, "WINDOW_SECONDS", 600.0)  # the test ends the windows
    transport = FakeTransport()
    watched = Pace(transport, asyncio.get_running_loop())
    watched.write(bytes(2**20))
    watched.pause()
    for _ in range(3):
        transport.unsent -= 10 * pace.FLOOR_BYTES // 4
        watched._look()
        assert not transport.aborted
    transport.unsent -= taken
    watched._look()
    assert transport.aborted is cut
    watched.end()


async def test_unread_answers_stop_pipelining() -> None:
    """Behind answers that are not read no more requests begin."""
    endless = Endless()
    async with serving(endless) as server, raw(server, GET.replace(b"/ ", b"/page ") * 1000) as connection:
        connection.stop_reading()
        await until(lambda: not connections())
    assert 0 < endless.begun < 100
