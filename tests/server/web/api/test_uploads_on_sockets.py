"""Uploads over real connections: disconnects, chunks, early refusals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from server.config.settings import Config
from tests.server.web.api.forms import BOUNDARY, JPEG, PNG, Answer, app, form, part


class Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Leave the test run's own signals as they are."""


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[tuple[int, asyncio.Queue[Answer]]]:
    """Serve the application on uvicorn: yield its port, and the answers it gave."""
    heard: asyncio.Queue[Answer] = asyncio.Queue()
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listening.getsockname()[1]
    server = Server(
        uvicorn.Config(app(config, heard), http="httptools", lifespan="off", log_config=None, access_log=False)
    )
    running = asyncio.ensure_future(server._serve([listening]))
    try:
        yield port, heard
    finally:
        server.should_exit = True
        await running


def head(*headers: str) -> bytes:
    """Return the head of an upload's request."""
    lines = ["POST / HTTP/1.1", "Host: test", f"Content-Type: multipart/form-data; boundary={BOUNDARY}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def talk(port: int, *sent: bytes) -> bytes:
    """Send, and return the answer up to the end of its JSON."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for data in sent:
            writer.write(data)
            await writer.drain()
        async with asyncio.timeout(10):
            return await reader.readuntil(b"}")
    finally:
        writer.close()


async def test_disconnected_client_leaves_nothing(settings: Config) -> None:
    """A client disconnects at every byte in turn, and no file stays."""
    body = form(part("garment", PNG), part("image", JPEG))
    data = head(f"Content-Length: {len(body)}") + body
    start = len(data) - len(body)
    async with serving(settings) as (port, heard):
        for cut in range(start + 1, len(data)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data[:cut])
            writer.write_eof()
            answer = await asyncio.wait_for(heard.get(), 10)
            assert answer == {"code": "bad_multipart"}, cut
            await reader.read()
            writer.close()
            await writer.wait_closed()
    assert list(settings.uploads_dir.iterdir()) == []


async def test_chunked_upload_is_read_and_capped(settings: Config) -> None:
    """Chunked encoding works, and its size is limited, too."""

    def chunked(data: bytes, size: int) -> bytes:
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    async with serving(settings) as (port, _):
        answer = await talk(port, head("Transfer-Encoding: chunked"), chunked(form(part("image", JPEG)), 7))
        assert answer.startswith(b"HTTP/1.1 201 ")
        endless = part("image", JPEG)[:-2] + bytes(settings.image_max_bytes)
        answer = await talk(port, head("Transfer-Encoding: chunked"), chunked(endless, 65536))
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_client_gets_refusal_after_sending_everything(settings: Config) -> None:
    """The connection is not reset before the answer is read."""
    body = form(part("image", b"GIF89a" + bytes(20_000_000)))
    async with serving(settings) as (port, _):
        answer = await talk(port, head(f"Content-Length: {len(body)}"), body)
        assert answer.startswith(b"HTTP/1.1 415 ")
        body = form(part("image", JPEG + bytes(40_000_000)))
        answer = await talk(port, head(f"Content-Length: {len(body)}"), body)
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_client_gets_refusal_before_sending_rest(settings: Config) -> None:
    """The answer comes as early as it is known."""
    async with serving(settings) as (port, _):
        answer = await talk(port, head("Content-Length: 20000000"), part("image", b"GIF89a" + bytes(26))[:-2])
        assert answer.startswith(b"HTTP/1.1 415 ")
        answer = await talk(port, head("Content-Length: 99000000"))
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_slow_client_delays_no_other(settings: Config) -> None:
    """A second upload finishes while the first one pauses."""
    async with serving(settings) as (port, heard):
        _, slow = await asyncio.open_connection("127.0.0.1", port)
        body = form(part("image", JPEG))
        slow.write(head(f"Content-Length: {len(body)}") + body[:50])
        await slow.drain()
        answer = await talk(port, head(f"Content-Length: {len(body)}"), body)
        assert answer.startswith(b"HTTP/1.1 201 ")
        slow.write(body[50:])
        assert [(await heard.get())["code"] for _ in range(2)] == ["ok", "ok"]
        slow.close()
