"""Cancel and erase running sessions, with and without the ring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from server.adapters.redis.bus import RedisBus
from server.config.settings import Config
from server.services import Services, open_services
from tests.worker.conftest import OWNER, Feed, StartWorker, milliseconds, until
from tests.worker.scripted import Scripted, Trusting, done, forever
from tryon.processor import Job, Output, Report, Result
from tryon.protocol.states import Event, Status
from worker.chain import Chain
from worker.tasks import SessionRunner

OpenFeed = Callable[[Config], Awaitable[Feed]]
MakeConfig = Callable[..., Config]

ENDLESS = """
import asyncio

from tryon.processor import Info

class Endless:
    info = Info(name="endless")

    async def run(self, job, report):
        try:
            print("began", job.session_id, flush=True)
            await asyncio.Event().wait()
        finally:
            print("stopped", job.session_id, flush=True)
"""


async def test_cancel_reaches_running_mock_at_once(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cancel stops a run in milliseconds, long before the next heartbeat."""
    settings = config(mock_seconds=60, lease_seconds=60)  # its heartbeat alone would come after 20 s
    feed = await feeds(settings)
    process = await worker(settings)
    took = []
    for _ in range(5):
        session = await feed.submit(request_id="upload-1")
        await feed.reaches(session.id, Status.PROCESSING)

        asked = time.monotonic()
        assert (await feed.services.sessions.cancelling.cancel(session.id, OWNER)).pending
        story = await feed.reaches(session.id)

        took.append(milliseconds(asked))
        assert story.events[-1].event is Event.CANCELLED
        assert story.session.outputs == []
    with capsys.disabled():
        print(f"\ncancel asked -> committed: {', '.join(f'{each:.0f}' for each in sorted(took))} ms")
    assert min(took) < 2000  # the first one also loads code; 10-30 on an idle machine, 200 promised
    await process.line("was cancelled.*upload-1")


async def test_delete_stops_run_and_its_files(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """A deleted session's run is cancelled, and none of its files is left."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    settings = config(processor="endless:Endless", lease_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit()
    await process.line(f"began {session.id}")

    asked = time.monotonic()
    await feed.services.sessions.erasure.delete(session.id, OWNER)
    await process.line(f"stopped {session.id}")

    assert milliseconds(asked) < 15_000  # 30 on an idle machine; the next heartbeat comes after 20 s
    assert (await feed.services.files.list_page()).entries == []
    assert await feed.services.database.reader.get(session.id) is None
    assert process.process.returncode is None
    assert "Traceback" not in process.output


# -- the same in this process, where moments can be chosen -----------------------------


@pytest.fixture
async def services(config: MakeConfig) -> AsyncIterator[Services]:
    async with open_services(config(lease_seconds=60)) as services:
        yield services


@pytest.fixture
def feed(services: Services, photos: Path) -> Feed:
    return Feed(services, photos)


async def test_heartbeat_notices_cancel_without_ring(config: MakeConfig, photos: Path) -> None:
    """A cancel whose message is lost is noticed by the next heartbeat."""
    async with open_services(config(lease_seconds=0.6)) as services:
        feed, processor = Feed(services, photos), Scripted(forever)
        session = await feed.submit()
        running = asyncio.create_task(SessionRunner(services, Chain([processor]), "w1", Trusting()).run(session.id))
        await processor.began.wait()
        claimed = (await feed.story(session.id)).session

        assert await services.database.writer.request_cancel(session.id, seq=claimed.seq)  # and no ring

        await asyncio.wait_for(running, 10)
        assert processor.cancelled
        assert (await feed.story(session.id)).session.status is Status.CANCELLED


async def test_cancel_right_after_claim_is_noticed(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel between the claim and the first heartbeat is not lost."""
    processor = Scripted(forever)
    runner = SessionRunner(feed.services, Chain([processor]), "w1", Trusting())
    session = await feed.submit()
    publish = RedisBus.publish

    async def cancelled_meanwhile(bus: RedisBus, session_id: str, message: bytes) -> bool:
        monkeypatch.setattr(RedisBus, "publish", publish)
        assert (await feed.services.sessions.cancelling.cancel(session_id, OWNER)).pending  # the claim is committed
        runner.hurry(session_id)
        return await publish(bus, session_id, message)

    monkeypatch.setattr(RedisBus, "publish", cancelled_meanwhile)
    await asyncio.wait_for(runner.run(session.id), 10)
    assert (await feed.story(session.id)).session.status is Status.CANCELLED


async def test_ring_for_valid_claim_changes_nothing(feed: Feed) -> None:
    """A claim that still counts is renewed, and the run goes on."""
    go_on = asyncio.Event()

    async def when_asked(job: Job, report: Report) -> Result:
        await go_on.wait()
        return Output(b"x")

    processor = Scripted(when_asked)
    runner = SessionRunner(feed.services, Chain([processor]), "w1", Trusting())
    session = await feed.submit()
    running = asyncio.create_task(runner.run(session.id))
    await processor.began.wait()
    leased = (await feed.story(session.id)).session.lease_expires_at

    runner.hurry("01990000-0000-7000-8000-000000000000")
    runner.hurry(session.id)

    async def renewed() -> bool:
        return (await feed.story(session.id)).session.lease_expires_at != leased

    await until(renewed)
    go_on.set()
    await asyncio.wait_for(running, 10)
    assert (await feed.story(session.id)).session.status is Status.COMPLETED


async def test_output_of_erased_session_is_deleted(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that is stored while its session is erased does not stay."""
    session = await feed.submit()
    put = feed.services.files.put

    async def erased_meanwhile(key: str, data: bytes) -> None:
        await put(key, data)
        await feed.services.sessions.erasure.delete(session.id, OWNER)

    monkeypatch.setattr(feed.services.files, "put", erased_meanwhile)
    await asyncio.wait_for(SessionRunner(feed.services, Chain([Scripted(done)]), "w1", Trusting()).run(session.id), 10)
    assert (await feed.services.files.list_page()).entries == []
    assert await feed.services.database.reader.get(session.id) is None
