"""A real worker process, sessions for it, and a way to await their end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

from server.adapters.database.reading import SessionWithEvents
from server.config.settings import Config
from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.services import Services, open_services
from testkit.processes import spawn
from testkit.stack import Stack
from tryon.protocol.states import Status

OWNER = "a" * 64
ARQ_WARNS = "ignore:There is no current event loop:DeprecationWarning"
"""arq 0.28 asks for a loop before it runs one; Python 3.12 and 3.13 warn of that."""


class StartWorker(Protocol):
    def __call__(self, config: Config, **env: str) -> Awaitable[Stack]: ...


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[StartWorker]:
    """Start `arq worker.Settings` for real, with a Config's servers and folder.

    Returns as soon as it is started.
    """
    started: list[Stack] = []

    async def start(config: Config, **env: str) -> Stack:
        settings = {
            "TRYON_DATA_DIR": str(config.data_dir),
            "TRYON_DATABASE_URL": config.database,
            "TRYON_REDIS_URL": config.redis,
            "TRYON_SECRET_KEY": ",".join(config.secret_keys),
            "TRYON_PROCESSOR": config.processor,
            "TRYON_MOCK_SECONDS": str(config.mock_seconds),
            "TRYON_MOCK_FAILURE_RATE": str(config.mock_failure_rate),
            "TRYON_LEASE_SECONDS": str(config.lease_seconds),
            "TRYON_DRAIN_SECONDS": str(config.drain_seconds),
            "TRYON_WORKER_JOBS": str(config.worker_jobs),
            "TRYON_LOG_FORMAT": "text",
        }
        process = await spawn(
            *(sys.executable, "-W", "error", "-W", ARQ_WARNS, "-m", "arq", "worker.Settings"),
            settings=settings | env,
            folder=tmp_path,
            piped=True,
        )
        started.append(Stack(process, config.data_dir, tmp_path))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            await each.close()
            print(f"--- output of {each!r}\n{each.output}")


async def until(what: Callable[[], Awaitable[Any]], *, seconds: float = 20.0) -> Any:
    """Return the first true answer. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (answer := await what()):
            await asyncio.sleep(0.01)
        return answer


@dataclass
class Feed:
    """Makes sessions as the web would, and follows them in the database."""

    services: Services
    photos: Path

    async def submit(
        self, *, garment: bool = False, request_id: str | None = None, params: dict[str, Any] | None = None
    ) -> Session:
        inputs = [NewFile((self.photos / "photo.webp").read_bytes(), "image/webp", role="person")]
        if garment:
            inputs.append(NewFile((self.photos / "garment.png").read_bytes(), "image/png", role="garment"))
        return await self.services.sessions.submissions.submit(
            owner=OWNER, inputs=inputs, params=params or {"fit": "loose"}, request_id=request_id
        )

    async def story(self, session_id: str) -> SessionWithEvents:
        story = await self.services.database.reader.with_events(session_id, 0)
        assert story is not None
        return story

    async def reaches(self, session_id: str, *wanted: Status, seconds: float = 20.0) -> SessionWithEvents:
        """Return the session and its events once it is in one of these states.

        Any terminal state if none is given.
        """

        async def there() -> SessionWithEvents | None:
            story = await self.story(session_id)
            status = story.session.status
            return story if (status in wanted if wanted else status.terminal) else None

        found: SessionWithEvents = await until(there, seconds=seconds)
        return found

    async def queued(self, session: Session) -> bool:
        """Return whether the session has a job.

        The queue's length says less: the reconciler of a worker that starts may enqueue
        a session again whose job was just taken.
        """
        return session.id in await self.services.queue.order(1000)

    async def workers(self, wanted: int = 1) -> None:
        """Wait until this number of workers is present."""

        async def counted() -> bool:
            return len(await self.services.queue.workers()) == wanted

        await until(counted)


@pytest.fixture
async def feeds(photos: Path) -> AsyncIterator[Callable[[Config], Awaitable[Feed]]]:
    """Open a Feed on a Config."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:

        async def open_feed(config: Config) -> Feed:
            return Feed(await stack.enter_async_context(open_services(config)), photos)

        yield open_feed


async def gone(pid: int) -> None:
    """Wait until the process has ended, reaped or not."""

    async def ended() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await until(ended, seconds=10)


def milliseconds(started: float) -> float:
    return (time.monotonic() - started) * 1000
