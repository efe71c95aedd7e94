"""The product's own web server inside the test process.

It is the real application, on a real port, with real clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from server.adapters.database.changes import Begin, Cancel, Complete, Fail, NewSession, Outcome, Requeue
from server.adapters.database.database import Database
from server.config.settings import Config
from server.domain.session import Session
from server.domain.stored_files import Direction, NewFile, StoredFile
from server.domain.tokens import new_token, token_hash
from server.services import Services
from server.sessions.claims import Claim
from server.system.clock import SystemClock
from server.system.randomness import SystemRandomness
from server.web.app import create_app
from server.web.push.hub import Hub
from server.web.serving.handshake import Handshake
from server.web.serving.listening import listen
from server.web.serving.server import make_server
from server.web.serving.unanswered import Unanswered
from testkit.values import new_session_id
from tryon.protocol.states import Event

PHOTO: Final = NewFile(b"\xff\xd8\xff\xe0 a cleaned photo", role="person")
GARMENT: Final = NewFile(b"\x89PNG a garment", "image/png", role="garment")

_owners = itertools.count()


async def until(true: Callable[[], Any], *, seconds: float = 10.0) -> None:
    """Wait for a condition that no event announces.

    Raises TimeoutError if it does not come true.
    """
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.002)


def new_session(**overrides: Any) -> NewSession:
    """Return a session as an upload makes it, for the database alone: without files."""
    id = overrides.pop("id", None) or new_session_id()
    settings: dict[str, Any] = {
        "id": id,
        "owner": token_hash(f"owner {next(_owners)}"),
        "processor": "mock",
        "params": {},
        "seed": 0,
        "files": (stored(f"inputs/{id}-person-0.jpg"),),
        "request_id": None,
        "deadline_seconds": 600,
        "retention_seconds": 86400,
    }
    return NewSession(**settings | overrides)


def stored(
    key: str, *, direction: Direction = Direction.INPUT, position: int = 0, role: str = "person", **more: Any
) -> StoredFile:
    """Return the row of a file."""
    return StoredFile(direction, position, role, 0, key, "image/jpeg", **more)


def result(key: str = "outputs/x.jpg", **more: Any) -> StoredFile:
    """Return the row of a result."""
    return stored(key, direction=Direction.OUTPUT, role="result", **more)


def outcome_of(event: Event) -> Outcome:
    """Return an outcome with this event, for tests that mind the transition alone."""
    outcomes: list[Outcome] = [
        Begin("w", lease_seconds=60),
        Complete((result(),)),
        Fail("processor_error", "It failed.", retryable=True),
        Requeue(reason="drain", burnt=0, enqueues=2),
        Cancel(),
    ]
    return next(outcome for outcome in outcomes if outcome.event is event)


@dataclass(frozen=True)
class Web:
    """A running web process with its own ``services``: a test may play the worker."""

    config: Config
    port: int
    client: httpx.AsyncClient
    services: Services
    hub: Hub
    unanswered: Unanswered

    @property
    def database(self) -> Database:
        return self.services.database

    async def submit(self, token: str | None = None, photo: NewFile = PHOTO) -> tuple[Session, str]:
        """Make a session; return it and its owner's token.

        It takes no HTTP, and unless one is given no photo that could be decoded: a page
        that cannot show one reads the session again and again.
        """
        token = token or new_token()
        session = await self.services.sessions.submissions.submit(
            owner=token_hash(token), inputs=[photo], params={}, request_id=None
        )
        return session, token

    async def begin(self, session: Session, worker: str = "test") -> Claim:
        claim = await self.services.sessions.claims.begin(session.id, worker=worker)
        assert claim is not None
        return claim

    async def complete(self, claim: Claim) -> None:
        assert await self.services.sessions.claims.complete(claim, [NewFile(b"\xff\xd8\xff\xe0 result")])

    def ws_url(self, session_id: str, query: str = "") -> str:
        return f"ws://127.0.0.1:{self.port}/api/tryon/sessions/{session_id}/ws{query}"

    @contextlib.asynccontextmanager
    async def follow(
        self, session_id: str, token: str | None = None, query: str = "", **options: Any
    ) -> AsyncIterator[Client]:
        """Connect a WebSocket client.

        With ``token`` it sends the subprotocol pair, as a browser does.
        """
        if token is not None:
            options["subprotocols"] = ["tryon.v1", f"tryon.bearer.{token}"]
        options = {"proxy": None, "ping_interval": None, "compression": None, "close_timeout": 2} | options
        async with connect(self.ws_url(session_id, query), **options) as connection:
            yield Client(connection)


StartWeb = Callable[..., Awaitable[Web]]
"""Starts a web process with these settings; every call shares the same data."""


class Client:
    """A person's page: it reads frames, then a close code."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[dict[str, Any]] = []

    async def next(self, *types: str, seconds: float = 10.0) -> dict[str, Any]:
        """Return the next frame, or the next frame of these types.

        Frames of other types are kept in ``frames`` all the same.
        """
        async with asyncio.timeout(seconds):
            while True:
                frame: dict[str, Any] = json.loads(await self.connection.recv())
                self.frames.append(frame)
                if not types or frame["type"] in types:
                    return frame

    async def rest(self, seconds: float = 10.0) -> int:
        """Read to the end; return the close code."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next(seconds=seconds)
        assert self.connection.close_code is not None
        return self.connection.close_code

    async def send(self, message: dict[str, Any] | str) -> None:
        await self.connection.send(message if isinstance(message, str) else json.dumps(message))

    @property
    def types(self) -> list[str]:
        return [frame["type"] for frame in self.frames]

    def story(self) -> list[int]:
        """Return the seqs in the order in which the client learned of them.

        They begin with the last snapshot.
        """
        seqs: list[int] = []
        for frame in self.frames:
            if frame["type"] == "snapshot":
                seqs = [frame["session"]["seq"]]
            elif frame["type"] == "event":
                seqs.append(frame["seq"])
        return seqs


@contextlib.asynccontextmanager
async def running_web(config: Config, *, ws: type[asyncio.Protocol] = Handshake) -> AsyncIterator[Web]:
    """Serve on a free port until the end of the block.

    It is connected to Redis before the block begins, if Redis is available.
    """
    app = create_app(config, clock=SystemClock(), randomness=SystemRandomness())
    server = make_server(app, config, ws=ws)
    listener = listen(config, reuse_port=False)
    port = listener.getsockname()[1]
    serving = asyncio.create_task(server._serve(sockets=[listener]), name="web")  # signals stay ours
    try:
        await until(lambda: server.started or serving.done())
        if serving.done():
            serving.result()
            raise AssertionError("the server did not start")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=15) as client:
            yield Web(config, port, client, app.state.services, app.state.hub, app.state.unanswered)
    finally:
        server.should_exit = True
        await serving
