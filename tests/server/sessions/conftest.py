"""Steps that several tests of the use cases share."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from server.adapters.redis.subscriber import RedisSubscriber
from server.config.settings import Config
from server.domain.bus_message import GONE, PROGRESS, parse_prefix
from server.domain.session import Session
from server.domain.tokens import new_token, token_hash
from server.services import Services, open_services
from server.sessions.claims import Claim
from server.sessions.reads import Credential
from server.system.randomness import SystemRandomness
from testkit.running import PHOTO
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status

MakeConfig = Callable[..., Config]
TOKEN = new_token()
MINE = Credential.of_token(TOKEN)


@pytest.fixture
async def services(config: MakeConfig, database_url: str) -> AsyncIterator[Services]:
    """Open the parts of one process, without a server or a worker."""
    async with open_services(config()) as services:
        yield services


async def submit(services: Services, **more: Any) -> Session:
    """Submit a session of :data:`MINE`."""
    settings: dict[str, Any] = {"owner": token_hash(TOKEN), "inputs": [PHOTO], "params": {}}
    return await services.sessions.submissions.submit(**settings | {"request_id": "the-upload"} | more)


async def begin(services: Services, session: Session, worker: str = "w1") -> Claim:
    """Claim a waiting session."""
    claim = await services.sessions.claims.begin(session.id, worker=worker)
    assert claim is not None
    return claim


async def row(services: Services, session: Session) -> Session:
    """Return the session as it is now."""
    found = await services.database.reader.get(session.id)
    assert found is not None
    return found


async def status(services: Services, session: Session) -> tuple[Status, int]:
    """Return the session's state and seq."""
    found = await row(services, session)
    return found.status, found.seq


def files(services: Services) -> list[str]:
    """Return the paths of all stored files below the data folder's uploads."""
    root = services.config.uploads_dir
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


class Published:
    """Messages that were published about one session, in order."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    @property
    def seqs(self) -> list[int]:
        """Seqs of the events."""
        kinds = [parse_prefix(message) for message in self.messages]
        return [seq for kind, seq in kinds if kind not in (PROGRESS, GONE)]

    @property
    def progress(self) -> list[float]:
        """Values of the progress messages."""
        return [json.loads(m[18:])["progress"] for m in self.messages if parse_prefix(m)[0] == PROGRESS]


@contextlib.asynccontextmanager
async def published_about(services: Services, session_id: str) -> AsyncIterator[Published]:
    """Collect the messages about a session during the block."""
    published = Published()
    subscriber = RedisSubscriber(
        services.config.redis,
        on_message=lambda _, message: published.messages.append(message),
        on_restored=lambda: None,
        randomness=SystemRandomness(),
    )
    async with subscriber:
        await subscriber.subscribe(services.bus.channel(session_id).encode())
        yield published


class Unanswered:
    """A call of the database's writer whose answer is lost, while its commit waits."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._commit = asyncio.Event()
        self._writing: asyncio.Task[Any] | None = None

    async def commit(self) -> None:
        """Let the transaction commit."""
        assert self._writing is not None
        self._commit.set()
        await self._writing

    async def roll_back(self) -> None:
        """Let the transaction end without a commit."""
        assert self._writing is not None
        self._writing.cancel()
        await asyncio.wait({self._writing})

    @contextlib.contextmanager
    def losing(self, services: Services, name: str) -> Iterator[None]:
        """Lose the answer to ``writer.<name>`` in the block."""
        call = getattr(services.database.writer, name)
        write = services.database.connections.write

        async def lost(change: Any, **options: Any) -> Any:
            self._writing = asyncio.create_task(call(change, **options))
            await self._changed.wait()
            raise Unavailable

        @contextlib.asynccontextmanager
        async def write_and_wait(**options: Any) -> AsyncIterator[Any]:
            async with write(**options) as connection:
                yield connection
                self._changed.set()
                await self._commit.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(services.database.writer, name, lost)
            patch.setattr(services.database.connections, "write", write_and_wait)
            yield
