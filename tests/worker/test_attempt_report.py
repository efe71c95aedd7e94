"""What a run says, as the database, the clients and the next attempt have it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from server.adapters.database import tables
from server.adapters.database.cleanups import CleanupKind
from server.config.settings import Config
from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.services import Services, open_services
from tests.worker.conftest import Feed, until
from tests.worker.scripted import Play, Scripted, Trusting, done, play
from tryon.processor import AttemptLost, Job, Output, ProcessorError, Report, Result
from tryon.processor.conformance import sample_photo
from tryon.protocol.errors import StorageFull, Unavailable
from tryon.protocol.states import Event, Status
from worker import attempt, attempt_report
from worker.attempt_report import AttemptReport
from worker.chain import Chain
from worker.tasks import SessionRunner

MakeConfig = Callable[..., Config]


@pytest.fixture
async def services(config: MakeConfig) -> AsyncIterator[Services]:
    async with open_services(config(max_attempts=3)) as services:
        yield services


@pytest.fixture
def feed(services: Services, photos: Path) -> Feed:
    return Feed(services, photos)


def beginning(then: Play) -> Play:
    """Return a script that begins work upstream, unless an attempt before has."""

    async def script(job: Job, report: Report) -> Result:
        if job.attempt == 1:
            await report.checkpoint({"id": job.key})
        return await then(job, report)

    return script


async def stopped(feed: Feed, session: Session) -> None:
    """Run a session until it has saved a checkpoint; then its worker stops."""
    saved = asyncio.Event()

    async def hang(job: Job, report: Report) -> Result:
        saved.set()
        await asyncio.Event().wait()
        raise AssertionError

    chain = Chain([Scripted(beginning(hang))])
    running = asyncio.create_task(SessionRunner(feed.services, chain, "w1", Trusting()).run(session.id))
    await asyncio.wait_for(saved.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)


# -- checkpoints -----------------------------------------------------------------------


async def test_next_attempt_resumes_from_checkpoint(feed: Feed) -> None:
    """After a worker has stopped, the next one goes on with the work upstream."""
    session = await feed.submit()
    await stopped(feed, session)
    ended, second = await play(feed, done, session)
    assert (ended.status, ended.attempt, ended.burnt) == (Status.COMPLETED, 2, 0)
    assert second.resumed == [{"id": f"{session.id}-1"}]


@pytest.mark.parametrize("why", ["another processor", "no resume"])
async def test_work_that_cannot_be_resumed_is_forgotten(feed: Feed, why: str) -> None:
    """An attempt that starts anew leaves a cleanup of the work before, and runs."""
    session = await feed.submit()
    await stopped(feed, session)
    second = Scripted(done)
    if why == "no resume":
        second.resumes = False
    else:  # as a fall-over hands it on
        second.name = "another"
        async with feed.services.database.connections.write() as connection:
            await connection.execute(update(tables.sessions).values(processor=second.name))
    ended, _ = await play(feed, done, session, second)
    assert (ended.status, second.resumed) == (Status.COMPLETED, [])
    [left] = await feed.services.database.cleanups.due(limit=10)
    cleanup = await feed.services.sessions.cleaning.begin(left.id)
    assert cleanup is not None and cleanup.kind is CleanupKind.FORGET
    assert (cleanup.work.processor, cleanup.work.checkpoint) == ("mock", {"id": f"{session.id}-1"})


async def test_first_attempt_runs(feed: Feed) -> None:
    """A session without a checkpoint is run, not resumed."""
    _, processor = await play(feed, beginning(done))
    assert (len(processor.jobs), processor.resumed) == (1, [])


async def test_replaced_attempt_learns_it_at_its_checkpoint(feed: Feed) -> None:
    """A worker that has lost its session saves nothing, and its run is told."""
    told = asyncio.Event()
    session = await feed.submit()

    async def late(job: Job, report: Report) -> Result:
        claimed = (await feed.story(job.session_id)).session
        await feed.services.sessions.requeueing.requeue(claimed, actor="test", burnt=False, reason="lease_lost")
        try:
            await report.checkpoint({"id": "late"})
        except AttemptLost:
            told.set()
        return await done(job, report)

    await play(feed, late, session)
    assert told.is_set()
    _, second = await play(feed, done, session)
    assert second.resumed == []


@pytest.mark.parametrize("error", [Unavailable, StorageFull])
async def test_checkpoint_waits_for_the_database(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A checkpoint is committed before the run goes on, however long that takes."""
    monkeypatch.setattr(attempt_report, "RETRY_SECONDS", 0.01)
    checkpoint, left = feed.services.sessions.claims.checkpoint, 3

    async def unavailable(*what: Any, **more: Any) -> bool:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error
        return await checkpoint(*what, **more)

    monkeypatch.setattr(feed.services.sessions.claims, "checkpoint", unavailable)
    session, _ = await play(feed, beginning(done))
    assert session.status is Status.COMPLETED
    assert left < 0


async def test_busy_upstream_that_has_the_work_is_resumed(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the work is begun, it is resumed: nothing is paid twice."""
    monkeypatch.setattr(attempt, "MIN_PAUSE_SECONDS", 0.0)
    calls: list[int] = []

    async def busy_once(job: Job, report: Report) -> Result:
        calls.append(job.attempt)
        if len(calls) == 1:
            await report.checkpoint({"id": job.key})
            raise ProcessorError("backend_busy", retry_after=0)
        return await done(job, report)

    session, processor = await play(feed, busy_once)
    assert session.status is Status.COMPLETED
    assert (calls, processor.resumed) == ([1, 1], [{"id": f"{session.id}-1"}])


@pytest.mark.parametrize("stays", [False, True])
async def test_failed_work_is_forgotten_before_another_attempt(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """Work that failed upstream is deleted there, then begun anew."""
    monkeypatch.setattr(attempt, "RETRY_SECONDS", 0.0)

    async def fail(job: Job, report: Report) -> Result:
        raise ProcessorError("backend_unreachable", requeue=True)

    session = await feed.submit()
    first = Scripted(beginning(fail))
    first.stays_upstream = stays
    await play(feed, fail, session, first)
    checkpoint = {"id": f"{session.id}-1"}
    assert first.cleaned == [("forget", f"{session.id}-1", checkpoint)]
    ended, second = await play(feed, done, session)
    assert ended.status is Status.COMPLETED
    assert second.resumed == ([checkpoint] if stays else [])


# -- usage and previews ----------------------------------------------------------------


async def test_usage_stands_in_the_event_that_ends_the_attempt(feed: Feed) -> None:
    """What each attempt has used is in the trail, whatever its end."""

    async def cost(job: Job, report: Report) -> Result:
        await report.usage(credits=1)
        await report.usage(credits=2.5, gpu_seconds=4)
        return await done(job, report)

    session, _ = await play(feed, cost)
    last = (await feed.story(session.id)).events[-1]
    assert last.event is Event.COMPLETED
    assert last.data["usage"] == {"credits": 2.5, "gpu_seconds": 4}


async def test_preview_is_verified_stored_and_shown(feed: Feed) -> None:
    """An intermediate picture is a file of the session, and of the progress."""
    shown = asyncio.Event()

    async def show(job: Job, report: Report) -> Result:
        await report.preview(sample_photo(), "image/png")
        await shown.wait()
        return await done(job, report)

    session = await feed.submit()
    runner = SessionRunner(feed.services, Chain([Scripted(show)]), "w1", Trusting())
    running = asyncio.create_task(runner.run(session.id))

    async def stored() -> Any:
        return (await feed.story(session.id)).session.preview

    preview = await until(stored)
    assert (preview.type, preview.width, preview.height) == ("image/png", 3, 4)
    assert await feed.services.files.get(preview.key) == sample_photo()
    shown.set()
    await asyncio.wait_for(running, 10)


async def test_preview_that_cannot_be_shown_harms_nothing(feed: Feed) -> None:
    """A broken preview is left out; the run goes on."""

    class Refusing(Trusting):
        async def verify(self, source: Any, type: str, **more: Any) -> Any:
            if type == "image/webp":
                raise ProcessorError("processor_error")
            return await super().verify(source, type, **more)

    async def show(job: Job, report: Report) -> Result:
        await report.preview(b"no picture", "image/webp")
        await asyncio.sleep(0)
        return await done(job, report)

    session = await feed.submit()
    await SessionRunner(feed.services, Chain([Scripted(show)]), "w1", Refusing()).run(session.id)
    ended = (await feed.story(session.id)).session
    assert (ended.status, ended.preview) == (Status.COMPLETED, None)


async def test_cancel_reaches_an_attempt_that_stores_a_preview(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt whose run has returned hears its cancel while a preview goes away."""
    storing, cleared, released = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def discard() -> None:
        cleared.set()
        await released.wait()

    async def preview(*what: Any) -> bool:
        try:
            storing.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(discard())
        raise AssertionError

    async def verified(output: Output) -> NewFile:
        return NewFile(output.data, output.type, 1, 1, output.role)

    claim = await feed.services.sessions.claims.begin((await feed.submit()).id, worker="w1", processors=["mock"])
    assert claim is not None
    claims = feed.services.sessions.claims
    monkeypatch.setattr(claims, "preview", preview)
    report = AttemptReport(claim, claims=claims, verified=verified, deletable=lambda: True)
    await report.preview(b"a picture")
    await asyncio.wait_for(storing.wait(), 10)
    closing = asyncio.create_task(report.close())
    await asyncio.wait_for(cleared.wait(), 10)
    closing.cancel()
    await asyncio.wait({closing}, timeout=10)
    released.set()
    assert closing.cancelled()
