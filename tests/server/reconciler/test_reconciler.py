"""Passes of the reconciler: what they leave alone, and the order of their work."""

from __future__ import annotations

import pytest

from server.reconciler import timing
from server.services import open_services
from testkit.running import new_session
from tests.server.reconciler.conftest import MakeConfig, Start, submitted
from tests.server.sessions.conftest import files, row


async def test_living_sessions_are_left_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change nothing about waiting, running and completed sessions in good order."""
    ages = ("UNQUEUED_SECONDS", "QUEUEING_SECONDS")
    for age in ages:  # a background pass may come before the job is in the queue
        monkeypatch.setattr(timing, age, 60.0)
    async with start() as web:
        waiting, _ = await web.submit()
        running, _ = await web.submit()
        claim = await web.begin(running)
        done, _ = await web.submit()
        await web.complete(await web.begin(done))
        for age in ages:
            monkeypatch.setattr(timing, age, 0.0)
        reconciler = web.services.reconciling.reconciler
        for _ in range(3):
            reconciler._lost_jobs._queue_lost = True  # look for lost jobs now
            await reconciler.maintain()
            assert not reconciler._lost_jobs._queue_lost
            await web.services.reconciling.cleanup.clean_up()
        assert (await row(web.services, waiting)).enqueues == 1
        assert (await row(web.services, running)).seq == claim.session.seq
        assert len(files(web.services)) == 4


async def test_deadlines_come_before_erasures(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail overdue sessions in each pass while erasures are left over."""
    for bound in ("FIRST_ITEMS", "FEWEST_ITEMS"):
        monkeypatch.setattr(f"server.reconciler.steps.{bound}", 1)
    async with open_services(config()) as services:
        expired = [await submitted(services) for _ in range(4)]
        for each in expired:
            await services.database.writer.mark_deleted(each.id, id_hash=str)

        monkeypatch.setattr(timing, "PASS_SECONDS", 0.0)  # erasing one takes longer, and so does reading
        for left in (3, 2, 1):
            late = await services.database.writer.insert(new_session(deadline_seconds=-1))
            await services.reconciling.reconciler.maintain()
            assert (await row(services, late)).error_code == "timeout"
            assert len(await services.database.reader.ids_among([each.id for each in expired])) == left
            assert await services.reconciling.reconciler.until_due() == 0.0
        await services.reconciling.reconciler.maintain()
        assert await services.database.reader.ids_among([each.id for each in expired]) == set()


async def test_old_tombstones_are_deleted(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delete a tombstone after its time."""
    monkeypatch.setattr("server.adapters.database.tombstones.TOMBSTONE_SECONDS", -1.0)
    async with open_services(config()) as services:
        session = await submitted(services)
        start = await services.database.feed.cursor()
        await services.sessions.erasure.delete(session.id, session.owner)
        assert (await services.database.feed.page(start)).tombstones
        await services.reconciling.reconciler.maintain()
        assert (await services.database.feed.page(start)).tombstones == []
