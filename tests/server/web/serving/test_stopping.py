"""The end of a web process: every request that has reached it gets an answer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from server.config.settings import Config
from server.domain.stored_files import NewFile
from server.sessions.reads import SessionReads
from server.web.serving import http
from server.web.serving import server as serving
from server.web.serving.exchange import Exchange
from testkit.fixtures import StartStack
from testkit.locks import write_locked
from testkit.processes import START_SECONDS
from testkit.running import Web, running_web, until
from testkit.stack import Stack

MakeConfig = Callable[..., Config]
Serve = Callable[..., Awaitable[tuple[Stack, int]]]
SESSIONS = "/api/tryon/sessions"
STOP_SECONDS = 5.0  # promised
LIVE = b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def photo(photos: Path) -> bytes:
    return (photos / "photo.webp").read_bytes()


def assert_unavailable(answer: httpx.Response) -> None:
    """Expect the 503 of a process that stops: a problem that a client can act upon."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "unavailable"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Connection"] == "close"


@contextlib.asynccontextmanager
async def stoppable(config: Config) -> AsyncIterator[tuple[Web, Callable[[], asyncio.Task[None]]]]:
    """Run a web process in this one; yield it with a function that begins its stop."""
    stack = contextlib.AsyncExitStack()
    async with stack:
        web = await stack.enter_async_context(running_web(config))
        rest = stack.pop_all()
        stopping: list[asyncio.Task[None]] = []

        def stop() -> asyncio.Task[None]:
            stopping.append(asyncio.create_task(rest.aclose(), name="stopping"))
            return stopping[0]

        try:
            yield web, stop
        finally:
            await (stopping[0] if stopping else stop())


async def test_blocked_requests_are_unavailable_when_server_stops(
    config: MakeConfig, database_url: str, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads that wait for the database are refused, once their time is over."""
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.5)
    async with stoppable(config()) as (web, stop), httpx.AsyncClient(base_url=web.client.base_url) as client:
        async with write_locked(database_url):
            headers = {"Origin": "http://localhost:3000"}
            uploads = [
                asyncio.create_task(client.post(SESSIONS, files={"image": photo}, headers=headers)) for _ in range(6)
            ]
            await until(lambda: len(web.unanswered) == len(uploads))
            stopping = stop()
            answers = await asyncio.gather(*uploads)
            assert not stopping.done(), "all are answered before a part is closed"
        for answer in answers:
            assert_unavailable(answer)
            assert answer.headers["Access-Control-Allow-Origin"] == headers["Origin"]


async def test_refusal_that_waits_for_its_body_is_sent_when_server_stops(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy gets the answer of the application, and no other one."""
    monkeypatch.setattr(http, "REST_AT_STOP_SECONDS", 0.1)
    trusting = config(trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),))
    async with stoppable(trusting) as (web, stop):
        proxy = await Peer.connect(web.port)
        proxy.send(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
        await until(lambda: any(type(each) is Exchange and each.dropping for each in gc.get_objects()))
        stop()
        head = await proxy.head()
        assert head.startswith("http/1.1 404 ")
        assert "connection: close" in head
        proxy.close()


# -- requests that have not arrived yet ------------------------------------------------


class Peer:
    """A bare HTTP client of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def send_all(self, data: bytes) -> None:
        """Send, and wait until most of it is on its way; raise ConnectionError."""
        self.send(data)
        await self._writer.drain()

    async def head(self) -> str:
        """Return the head of an answer, after its body is read, too."""
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = next(line for line in head.splitlines() if line.startswith("content-length:"))
            await self._reader.readexactly(int(size.partition(":")[2]))
            return head

    async def rest(self) -> bytes:
        """Return everything up to the end of the connection, and close it."""
        async with asyncio.timeout(10):
            rest = await self._reader.read()
        self.close()
        return rest

    def close(self) -> None:
        self._writer.close()


def head_of(photo: bytes, *, size: int | None = None) -> bytes:
    """Return the head of an upload, with the body of :func:`body_of`."""
    length = size or len(body_of(photo))
    return (
        f"POST {SESSIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def body_of(photo: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + photo + b"\r\n--x--\r\n"


async def test_new_connection_is_answered_when_server_stops(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that connected just before the stop may still send its first request."""
    monkeypatch.setattr(http, "FIRST_REQUEST_SECONDS", 10.0)
    async with stoppable(config()) as (web, stop):
        peer = await Peer.connect(web.port)
        stop()
        await until(lambda: web.hub.draining)
        peer.send(LIVE)
        head = await peer.head()
        assert head.startswith("http/1.1 200")
        assert "connection: close" in head
        assert await peer.rest() == b""


async def test_silent_connection_is_closed_when_server_stops(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection without a request keeps a server for a moment only."""
    monkeypatch.setattr(http, "FIRST_REQUEST_SECONDS", 0.05)
    async with stoppable(config()) as (web, stop):
        silent, slow = await Peer.connect(web.port), await Peer.connect(web.port)
        slow.send(LIVE[:-2])
        stop()
        assert await silent.rest() == b""
        assert (await slow.head()).startswith("http/1.1 503"), "half a head has arrived: it gets an answer"
        slow.close()


async def test_idle_connection_is_closed_at_once_when_server_stops(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that has had its answer keeps no server."""
    monkeypatch.setattr(http, "FIRST_REQUEST_SECONDS", 60.0)
    async with stoppable(config()) as (web, stop):
        peer = await Peer.connect(web.port)
        peer.send(LIVE)
        assert "connection: close" not in await peer.head()
        stop()
        assert await peer.rest() == b""


async def test_running_upload_is_accepted_when_server_stops(config: MakeConfig, photo: bytes) -> None:
    """A body that arrives in time is a session, although its process stops."""
    async with stoppable(config()) as (web, stop):
        peer = await Peer.connect(web.port)
        peer.send(head_of(photo) + body_of(photo)[:1000])
        await until(lambda: len(web.unanswered) == 1)
        stop()
        await until(lambda: web.hub.draining)
        peer.send(body_of(photo)[1000:])
        head = await peer.head()
        assert head.startswith("http/1.1 201")
        assert "connection: close" in head
        assert await peer.rest() == b""


async def test_endless_upload_gets_its_refusal_when_server_stops(
    config: MakeConfig, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends on reads the answer: no reset overtakes it."""
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.2)
    async with stoppable(config()) as (web, stop):
        peer = await Peer.connect(web.port)
        peer.send(head_of(photo, size=5_000_000))
        await until(lambda: len(web.unanswered) == 1)
        stopping = stop()
        await until(lambda: not web.unanswered)
        assert not stopping.done()
        for _ in range(10):
            await peer.send_all(bytes(50_000))
        head = await peer.head()
        assert head.startswith("http/1.1 503")
        assert "retry-after: " in head
        peer.close()


async def test_refused_upload_gets_its_answer_before_the_close(web: Web, photo: bytes) -> None:
    """A client that asked for one answer may send all of its body: no reset."""
    peer = await Peer.connect(web.port)
    peer.send(head_of(photo, size=50_000_000).replace(b"Host: x", b"Host: x\r\nConnection: close"))
    answer = await peer.head()
    assert answer.startswith("http/1.1 413")
    assert "connection: close" in answer
    for _ in range(20):
        await peer.send_all(bytes(50_000))
    peer.close()


async def test_handshake_is_refused_when_server_stops(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebSocket that waits for its session gets the 503 of any other request."""
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.2)

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(SessionReads, "read", never)
    async with stoppable(config()) as (web, stop):
        session, token = await web.submit()
        peer = await Peer.connect(web.port)
        peer.send(
            f"GET {SESSIONS}/{session.id}/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        await until(lambda: web.unanswered)
        stop()
        head = await peer.head()
        assert head.startswith("http/1.1 503")
        assert "retry-after: " in head
        assert await peer.rest() == b""


async def test_pipelined_requests_are_refused_when_server_stops(
    config: MakeConfig, database_url: str, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that begins when the one before it is refused is refused, too."""
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.3)
    async with stoppable(config()) as (web, stop), write_locked(database_url):
        peer = await Peer.connect(web.port)
        peer.send((head_of(photo) + body_of(photo)) * 3)
        await until(lambda: len(web.unanswered) == 1)
        stop()
        for _ in range(3):
            assert (await peer.head()).startswith("http/1.1 503")
        assert await peer.rest() == b""


async def test_answer_that_no_one_reads_is_cut_off_when_server_stops(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that takes its file too slowly is no fault: no trace is logged."""
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.2)
    async with stoppable(config()) as (web, stop):
        session, token = await web.submit()
        claim = await web.begin(session)
        assert await web.services.sessions.claims.complete(claim, [NewFile(bytes(16_000_000))])
        shown = await web.client.get(f"{SESSIONS}/{session.id}", headers={"Authorization": f"Bearer {token}"})
        peer = await Peer.connect(web.port)
        peer.send(f"GET {shown.json()['links']['output']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: web.unanswered)
        await stop()
        assert len(await peer.rest()) < 16_000_000
    assert not [record for record in caplog.records if record.exc_info]
    assert "Refused" not in caplog.text


async def test_clients_are_notified_when_no_descriptor_is_left(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cannot accept any more stops as any other."""

    def dup(_: socket.socket) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async with stoppable(config()) as (web, stop):
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next()
            monkeypatch.setattr(socket.socket, "dup", dup)
            code, _ = await asyncio.gather(client.rest(), stop())
        assert code == 4000


# -- whole processes -------------------------------------------------------------------


@pytest.fixture
async def serve(stack: StartStack, config: MakeConfig) -> Serve:
    """Start `tryon serve`; return the process and its port."""

    async def start(**env: str) -> tuple[Stack, int]:
        settings = config()
        env = {"TRYON_DATABASE_URL": settings.database, "TRYON_REDIS_URL": settings.redis} | env
        process = await stack("serve", ready=False, folder=None, **env)
        return process, int((await process.line(r"Listening on http://\S+:(\d+)"))[1])

    return start


async def answers(port: int) -> bool:
    """Return whether a process answers on this port."""
    with contextlib.suppress(OSError):
        peer = await Peer.connect(port)
        peer.send(b"GET /api/health/live HTTP/1.0\r\n\r\n")
        return (await peer.rest()).startswith(b"HTTP/1.1 200")
    return False


async def until_ready(port: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while not await answers(port):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
async def test_process_ends_in_time_while_database_is_blocked(
    serve: Serve, sqlite_url: str, photo: bytes, number: signal.Signals
) -> None:
    """All requests in flight get a 503, and the process is gone after five seconds."""
    process, port = await serve()
    await until_ready(port)
    async with write_locked(sqlite_url), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        uploads = [asyncio.create_task(client.post(SESSIONS, files={"image": photo})) for _ in range(8)]
        await until(lambda: sum(f"POST {SESSIONS}" in line for line in process.errors) == len(uploads))
        asked = time.monotonic()
        process.process.send_signal(number)
        for answer in await asyncio.gather(*uploads):
            assert_unavailable(answer)
        await process.wait(30)
        assert time.monotonic() - asked < STOP_SECONDS + 15  # the product's own timer ends it
    assert "Traceback" not in process.output


async def test_process_ends_in_time_while_it_starts(serve: Serve) -> None:
    """A database that takes connections and is silent does not keep a process."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process, _ = await serve(TRYON_DATABASE_URL=silent_url(silent), TRYON_START_CHECK="no")
        await ends_in_time(process, silent)


async def test_process_ends_in_time_while_its_start_is_checked(stack: StartStack, config: MakeConfig) -> None:
    """The same before it listens, while it asks the database."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"TRYON_DATABASE_URL": silent_url(silent), "TRYON_REDIS_URL": config().redis}
        await ends_in_time(await stack("serve", ready=False, folder=None, **env), silent)


def silent_url(silent: socket.socket) -> str:
    """Return the URL of a database that a silent socket stands for."""
    return f"postgresql+asyncpg://x@127.0.0.1:{silent.getsockname()[1]}/x"


async def ends_in_time(process: Stack, silent: socket.socket) -> None:
    """Stop a process that has just connected to its database."""
    connection, _ = await asyncio.to_thread(silent.accept)
    with connection:
        asked = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        await process.wait(30)
        assert time.monotonic() - asked < STOP_SECONDS + 15  # a busy machine takes seconds to end a process


async def test_process_answers_connections_of_its_backlog_when_it_stops(serve: Serve) -> None:
    """Requests that only the kernel has received are answered, also on a kept one."""
    process, port = await serve()
    await until_ready(port)
    kept = [await Peer.connect(port) for _ in range(20)]
    for peer in kept:
        peer.send(LIVE)
        assert "connection: close" not in await peer.head()
    process.process.send_signal(signal.SIGSTOP)
    new = [await Peer.connect(port) for _ in range(100)]
    for peer in (*kept, *new):
        peer.send(LIVE)
    process.process.send_signal(signal.SIGTERM)
    process.process.send_signal(signal.SIGCONT)
    for peer in (*kept, *new):
        assert (await peer.head()).startswith("http/1.1 200")
        assert await peer.rest() == b""
    assert await process.wait() in (0, -signal.SIGTERM)


async def test_process_stopped_under_load_answers_every_request(serve: Serve, photo: bytes) -> None:
    """Each upload whose connection was made is a 201 or a 503, and none is cut."""
    process, port = await serve()
    await until_ready(port)
    heads: list[str] = []

    async def upload() -> None:
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                peer = await Peer.connect(port)
                peer.send(head_of(photo) + body_of(photo))
                heads.append(await peer.head())
                peer.close()

    uploads = [asyncio.create_task(upload()) for _ in range(12)]
    await until(lambda: len(heads) > 12, seconds=60)
    for _ in range(3):
        process.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*uploads)
    assert {head.split()[1] for head in heads} <= {"201", "503"}
    assert await process.wait() in (0, -signal.SIGTERM)
    assert "Traceback" not in process.output
