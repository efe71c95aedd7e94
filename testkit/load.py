"""The load generator: thousands of WebSocket clients on bare asyncio protocols.

A client of a library takes 30 us and 30 KB a message and a connection; these take 3 us
and 2 KB, so that the figures are those of the server. They do what a client must:
upgrade, answer pings, answer the close. They come from several addresses of
127.0.0.0/8, as the ports of one would not last for reconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.services import Services
from server.sessions.claims import Claim
from tryon.protocol.paths import SESSIONS

SOURCES: Final = 16
CONNECT_SECONDS: Final = 20.0
CONCURRENT: Final = 64
TEXT, CLOSE, PING = 1, 8, 9

OnText = Callable[["Client", bytes], None]
OnEnd = Callable[["Client"], None]


def source(number: int) -> tuple[str, int]:
    return (f"127.0.0.{2 + number % SOURCES}", 0)


def _ignore(client: Client, text: bytes) -> None:
    pass


class Client(asyncio.Protocol):
    """One WebSocket.

    ``ready`` is done with the first text frame (with the 101 if ``greeted`` is false).
    """

    __slots__ = (
        "_greeted",
        "_open",
        "_port",
        "_rest",
        "_transport",
        "code",
        "greeting",
        "number",
        "on_end",
        "on_text",
        "path",
        "ready",
    )

    def __init__(self, port: int, path: str, number: int, on_text: OnText, on_end: OnEnd | None, greeted: bool) -> None:
        self.number = number
        self.path = path
        self.on_text = on_text
        self.on_end = on_end
        self.code: int | None = None
        self.greeting = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._greeted = greeted
        self._open = False
        self._port = port
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass
        self._write(
            f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        if not self._open:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._fail(ConnectionError(f"refused: {data[:80]!r}"))
                return
            self._open = True
            data = data[end + 4 :]
            if not self._greeted and not self.ready.done():
                self.ready.set_result(None)
        at, size = 0, len(data)
        while at + 2 <= size:
            start, length = at + 2, data[at + 1]
            if length == 126:
                start, length = at + 4, int.from_bytes(data[at + 2 : at + 4], "big")
            elif length == 127:
                start, length = at + 10, int.from_bytes(data[at + 2 : at + 10], "big")
            if start + length > size:
                break
            opcode = data[at] & 15
            at = start + length
            if opcode == TEXT:
                if self._greeted and not self.ready.done():
                    self.greeting = data[start:at]
                    self.ready.set_result(None)
                else:
                    self.on_text(self, data[start:at])
            elif opcode == PING:
                self._write(bytes((0x8A, 0x80 | length, 0, 0, 0, 0)) + data[start:at])
            elif opcode == CLOSE:
                self.code = int.from_bytes(data[start : start + 2], "big")
                self._write(b"\x88\x82\0\0\0\0" + data[start : start + 2])
                self.close()
        self._rest = data[at:]

    def _fail(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(f"closed before it was ready: {error}"))
        elif self.on_end is not None:
            self.on_end(self)

    @property
    def connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(
    port: int,
    path: str,
    number: int = 0,
    *,
    on_text: OnText = _ignore,
    on_end: OnEnd | None = None,
    greeted: bool = True,
) -> Client:
    """Connect one client and wait for its first frame.

    Raises OSError (a refusal is one) or TimeoutError.
    """
    client = Client(port, path, number, on_text, on_end, greeted)
    async with asyncio.timeout(CONNECT_SECONDS):
        await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port, local_addr=source(number))
        try:
            await client.ready
        except BaseException:
            client.close()
            raise
    return client


async def connect_all(
    port: int, paths: Sequence[str], *, on_text: OnText = _ignore, greeted: bool = True
) -> tuple[list[Client], list[float]]:
    """Connect clients, :data:`CONCURRENT` at a time; return them in order.

    The second value is the time that each took, in seconds.
    """
    clients: list[Client | None] = [None] * len(paths)
    seconds: list[float] = []
    numbers = iter(range(len(paths)))

    async def some() -> None:
        for number in numbers:
            started = time.perf_counter()
            clients[number] = await connect(port, paths[number], number, on_text=on_text, greeted=greeted)
            seconds.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(CONCURRENT, len(paths))):
            group.create_task(some())
    return [client for client in clients if client is not None], seconds


async def close_all(clients: Sequence[Client]) -> None:
    for client in clients:
        client.on_end = None
        client.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while any(client.connected for client in clients):
                await asyncio.sleep(0.05)


class Http:
    """One kept-alive HTTP connection."""

    def __init__(self, port: int, number: int = 0) -> None:
        self._port = port
        self._number = number
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, head: str = "", body: bytes = b"") -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer.

        ``head``: further lines, each with its CRLF.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, local_addr=source(self._number))
        reader, writer = self._streams
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{head}{length}\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        size = 0
        if status not in (204, 304) and (found := answer.lower().find(b"content-length:")) > 0:
            size = int(answer[found + 15 : answer.index(b"\r\n", found)])
        return status, answer, await reader.readexactly(size)

    async def upload(self, form: bytes) -> dict[str, Any]:
        """Upload a multipart body made by :func:`form`; return the session.

        Raises SystemExit if it is refused.
        """
        status, _, body = await self.request(
            "POST", SESSIONS, f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n", form
        )
        if status != 201:
            raise SystemExit(f"an upload was refused: {status} {body[:300]!r}")
        session: dict[str, Any] = json.loads(body)
        return session

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


BOUNDARY: Final = "benchmark-boundary-0123456789"


def form(image: bytes) -> bytes:
    """Return the body of an upload of one JPEG."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


# -- sessions without an upload --------------------------------------------------------


OWNER: Final = "0" * 64
"""Owner of all of them."""


@dataclass(slots=True)
class Held:
    """A session in ``processing`` that no worker works on; callers make its events."""

    claim: Claim
    path: str
    seq: int = field(default=2)

    @property
    def session_id(self) -> str:
        return self.claim.session.id


async def hold(services: Services, count: int) -> list[Held]:
    """Make sessions in ``processing``.

    Rows, events and files are real, made by the product's use cases without HTTP.
    """
    held: list[Held] = []
    for made, path in await queue(services, count):
        claim = await services.sessions.claims.begin(made.id, worker="benchmark")
        assert claim is not None
        held.append(Held(claim, path, claim.session.seq))
        await services.queue.forget(made.id, 0, made.enqueues)  # as a worker takes it out of the queue
    return held


async def queue(services: Services, count: int) -> list[tuple[Session, str]]:
    """Make sessions in ``created`` that wait for a worker.

    Each comes with the path of its socket.
    """
    photo = NewFile(b"\xff\xd8\xff\xe0 no picture", role="person")
    expires = int(services.database.clock.now()) + services.config.ticket_seconds
    queued: list[tuple[Session, str]] = []
    for number in range(count):
        made = await services.sessions.submissions.submit(
            owner=OWNER, inputs=[photo], params={"n": number}, request_id=None
        )
        ticket = services.signer.ticket(made.id, expires=expires)
        queued.append((made, f"{SESSIONS}/{made.id}/ws?ticket={ticket}"))
    return queued


class Times:
    """A quick reader of the ``at`` of frames.

    It parses the seconds alone and looks up the minute before them.
    """

    def __init__(self) -> None:
        self._minutes: dict[bytes, float] = {}

    def at(self, frame: bytes) -> float:
        """Unix seconds of ``"at":"2026-11-22T09:00:00.000Z"``."""
        start = frame.index(b'"at":"') + 6
        minute = frame[start : start + 16]
        base = self._minutes.get(minute)
        if base is None:
            base = self._minutes[minute] = datetime.fromisoformat(minute.decode() + ":00+00:00").timestamp()
        return base + float(frame[start + 17 : frame.index(b"Z", start + 17)])
