"""Progress on its way from a worker to the clients."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from server.adapters.redis.bus import RedisBus
from server.domain.session import Progress
from server.domain.stored_files import NewFile
from server.services import Services
from server.sessions.progress import ProgressReports
from testkit.running import until
from tests.server.sessions.conftest import MINE, begin, published_about, submit


async def test_progress_is_coalesced_and_kept(services: Services) -> None:
    """Publish at most five reports a second, and keep the last for late readers."""
    session = await submit(services)
    claim = await begin(services, session)
    async with published_about(services, session.id) as published:
        begun = asyncio.get_running_loop().time()
        for n in range(1, 101):
            await services.sessions.claims.report(claim, n / 100, "rendering", 1.0)
            await asyncio.sleep(0.005)
        await until(lambda: published.progress[-1:] == [1.0])
        seconds = asyncio.get_running_loop().time() - begun
        assert len(published.progress) <= 5 * seconds + 2
        assert published.progress == sorted(published.progress)
    shown = (await services.sessions.reads.read(session.id, MINE)).view
    assert (shown.progress, shown.stage) == (1.0, "rendering")


@pytest.mark.parametrize(("given", "published_as"), [(-1.0, 0.0), (7.0, 1.0), (None, None), (0.123456, 0.1235)])
async def test_progress_is_bounded_and_rounded(
    services: Services, given: float | None, published_as: float | None
) -> None:
    """Bound progress to 0..1 with four digits."""
    session = await submit(services)
    claim = await begin(services, session)
    async with published_about(services, session.id) as published:
        await services.sessions.claims.report(claim, given, "stage")
        await until(lambda: published.progress)
        assert published.progress == [published_as]


class SlowBus:
    """A bus whose publication takes a while to hear its cancel, and then fails."""

    def __init__(self) -> None:
        self.began, self.cancelled, self.released = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def publish_progress(self, *what: Any) -> bool:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            await self.released.wait()
            raise ConnectionError("planted") from None
        raise AssertionError


async def test_end_hears_its_cancel_and_no_error_of_the_bus(services: Services) -> None:
    """A claim that waits for its last publication can be cancelled; else it goes on."""
    for cancelled in (True, False):
        bus = SlowBus()
        reports = ProgressReports("session", cast(RedisBus, bus), services.sessions.access)
        reports.add(Progress(seq=1, attempt=1, at="now"))
        await asyncio.wait_for(bus.began.wait(), 10)
        ending = asyncio.create_task(reports.end())
        await asyncio.wait_for(bus.cancelled.wait(), 10)
        if cancelled:
            ending.cancel()
            await asyncio.wait({ending}, timeout=10)
        bus.released.set()
        await asyncio.wait({ending})
        assert ending.cancelled() is cancelled
        assert cancelled or ending.exception() is None


async def test_no_progress_is_published_after_the_end(services: Services) -> None:
    """Publish nothing of a claim that has ended, waiting reports included."""
    session = await submit(services)
    claim = await begin(services, session)
    async with published_about(services, session.id) as published:
        for n in range(10):
            await services.sessions.claims.report(claim, n / 10, "rendering")
        await services.sessions.claims.complete(claim, [NewFile(b"result")])
        await until(lambda: published.seqs == [3])
        count = len(published.messages)
        await asyncio.sleep(0.25)  # longer than a report may wait
        await services.sessions.claims.report(claim, 1.0, "late")
        assert claim.reports.timer is None
        assert len(published.messages) == count
