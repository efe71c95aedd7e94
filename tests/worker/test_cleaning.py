"""Work upstream is cancelled or forgotten after its session, also when it is erased."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from server.adapters.redis.queue import ArqQueue
from server.config.settings import Config
from server.services import Services, open_services
from tests.worker.conftest import OWNER, Feed, StartWorker
from tests.worker.scripted import Scripted, play
from tryon.processor import Job, ProcessorError, Report, Result
from tryon.protocol.states import Status
from worker.chain import Chain
from worker.cleaning import Cleaner

MakeConfig = Callable[..., Config]
OpenFeed = Callable[[Config], Awaitable[Feed]]

UPSTREAM = """
import asyncio
from tryon.processor import Info

class Upstream:
    info = Info(name="upstream")

    async def run(self, job, report):
        await report.checkpoint({"id": "at the upstream"})
        print("began", job.key, flush=True)
        await asyncio.Event().wait()

    async def forget(self, job, checkpoint):
        print("forgot", job.key, checkpoint["id"], flush=True)
"""


@pytest.fixture
async def services(config: MakeConfig) -> AsyncIterator[Services]:
    async with open_services(config()) as services:
        yield services


@pytest.fixture
def feed(services: Services, photos: Path) -> Feed:
    return Feed(services, photos)


async def fail(job: Job, report: Report) -> Result:
    """Begin work upstream, then fail for good."""
    await report.checkpoint({"id": job.key})
    raise ProcessorError("moderated_output")


async def test_work_of_failed_session_is_cancelled(feed: Feed) -> None:
    """The upstream's work of a session that has failed is cancelled, once."""
    session, processor = await play(feed, fail)
    assert session.status is Status.FAILED
    [cleanup] = await feed.services.database.cleanups.due(limit=10)
    cleaner = Cleaner(feed.services.sessions.cleaning, Chain([processor]))
    for _ in range(2):
        await cleaner.run(cleanup.id)
    assert processor.cleaned == [("cancel", f"{session.id}-1", {"id": f"{session.id}-1"})]
    assert await feed.services.database.cleanups.due(limit=10) == []


async def test_work_of_erased_session_is_forgotten(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream's copies of an erased session are deleted."""
    enqueued: list[str] = []

    async def note(queue: ArqQueue, cleanup_id: str, n: int) -> None:
        enqueued.append(cleanup_id)

    monkeypatch.setattr(ArqQueue, "enqueue_cleanup", note)
    session, processor = await play(feed, fail)
    await feed.services.sessions.erasure.delete(session.id, OWNER)
    cleaner = Cleaner(feed.services.sessions.cleaning, Chain([processor]))
    for cleanup_id in enqueued:
        await cleaner.run(cleanup_id)
    assert ("forget", f"{session.id}-1", {"id": f"{session.id}-1"}) in processor.cleaned


async def test_receipt_is_true_when_processor_cannot_forget(feed: Feed) -> None:
    """The attempt notes it with its checkpoint."""
    processor = Scripted(fail)
    processor.forgets = False
    session, _ = await play(feed, fail, processor=processor)
    assert (await feed.services.sessions.erasure.delete(session.id, OWNER)).upstream == "kept"


@pytest.mark.parametrize("reason", ["unreachable", "of another worker"])
async def test_cleanup_that_fails_stays(feed: Feed, reason: str) -> None:
    """A cleanup stays until an upstream has answered the processor that began it."""
    _, processor = await play(feed, fail)
    processor.stays_upstream = reason == "unreachable"
    mine = processor if reason == "unreachable" else Scripted(fail, "another")
    cleanups = feed.services.database.cleanups
    [cleanup] = await cleanups.due(limit=10)
    await Cleaner(feed.services.sessions.cleaning, Chain([mine])).run(cleanup.id)
    assert await cleanups.get(cleanup.id) == cleanup
    assert mine.cleaned == processor.cleaned[: int(reason == "unreachable")]


async def test_cleanup_that_fails_is_tried_again_soon(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause before a job that was lost is enqueued again is for that case alone."""
    monkeypatch.setattr("server.sessions.upstream_cleaning.FAILED_SECONDS", 0.0)
    _, processor = await play(feed, fail)
    processor.stays_upstream = True
    cleanups = feed.services.database.cleanups
    [cleanup] = await cleanups.due(limit=10)
    await cleanups.begin(cleanup, pause_seconds=60.0)
    assert await cleanups.due(limit=10) == []
    await Cleaner(feed.services.sessions.cleaning, Chain([processor])).run(cleanup.id)
    assert [each.id for each in await cleanups.due(limit=10)] == [cleanup.id]


async def test_delete_reaches_the_upstream(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """A running session that is deleted is deleted at its upstream as well."""
    (tmp_path / "upstream.py").write_text(UPSTREAM)
    settings = config(processor="upstream:Upstream", lease_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit()
    await process.line(f"began {session.id}-1")
    await feed.services.sessions.erasure.delete(session.id, OWNER)
    await process.line(f"forgot {session.id}-1 at the upstream")
