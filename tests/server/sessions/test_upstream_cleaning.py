"""Cleanups: stop or delete upstream what sessions have left there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from server.adapters.database.cleanups import CleanupKind
from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.services import Services, open_services
from server.sessions import upstream_cleaning
from server.sessions.claims import Claim
from server.sessions.processors import ProcessorDirectory
from server.sessions.upstream_cleaning import DueCleanup, UpstreamCleaning
from testkit.fixtures import StartValkey
from tests.server.sessions.conftest import MakeConfig, begin, row, submit
from tryon.processor import Info
from tryon.processor.description import describe
from tryon.protocol.states import GoneReason

FOUND_BY = {"id": "upstream-of-the-photo"}


async def begun_upstream(services: Services) -> tuple[Session, Claim]:
    """Return a running session whose processor has begun work upstream."""
    session = await submit(services)
    claim = await begin(services, session)
    assert await services.sessions.claims.checkpoint(claim, FOUND_BY)
    return session, claim


async def rows(services: Services) -> list[dict[str, Any]]:
    """Return all rows of cleanups."""
    async with services.database.connections.read() as connection:
        found = await connection.execute(text("SELECT * FROM tryon_cleanups ORDER BY next_at"))
        return [dict(each) for each in found.mappings()]


async def make_due(services: Services) -> None:
    """Let the next attempt at each cleanup be due now."""
    async with services.database.connections.write() as connection:
        await connection.execute(text("UPDATE tryon_cleanups SET next_at = '2026-01-01 00:00:00.000000'"))


async def due(services: Services) -> DueCleanup:
    """Return the one cleanup that is left to do."""
    [left] = await rows(services)
    cleanup = await services.sessions.cleaning.begin(left["id"])
    assert cleanup is not None
    return cleanup


@pytest.mark.parametrize("end", ["failed", "cancelled", "timed out", "lost too often"])
async def test_end_without_result_cancels_work_upstream(config: MakeConfig, database_url: str, end: str) -> None:
    """The row is there with the end; the work has the key of its run."""
    async with open_services(config(max_attempts=1)) as services:
        session, claim = await begun_upstream(services)
        if end == "failed":
            assert await services.sessions.claims.fail(claim, "processor_error")
        elif end == "cancelled":
            assert await services.database.writer.request_cancel(session.id, seq=2)
            assert await services.sessions.claims.requeue(claim, burnt=False, reason="cancelled")
        elif end == "timed out":
            async with services.database.connections.write() as connection:
                await connection.execute(text("UPDATE tryon_sessions SET deadline_at = created_at"))
            assert await services.sessions.transitions.time_out([session.id]) == {session.id}
        else:
            assert await services.sessions.claims.requeue(claim, burnt=True, reason="lease_lost")
        cleanup = await due(services)
        assert (cleanup.kind, cleanup.work.key) == (CleanupKind.CANCEL, f"{session.id}-1")
        assert cleanup.work.checkpoint == FOUND_BY


async def test_completed_session_has_nothing_to_cancel(services: Services) -> None:
    """Its work upstream is over; erased, what is kept there is to be forgotten."""
    session, claim = await begun_upstream(services)
    assert await services.sessions.claims.complete(claim, [NewFile(b"result")])
    assert await rows(services) == []
    receipt = await services.sessions.erasure.delete(session.id, session.owner)
    assert receipt.upstream == "pending"
    assert (await due(services)).kind is CleanupKind.FORGET


async def test_work_that_is_given_up_is_forgotten(services: Services) -> None:
    """Once, also if the answer was lost; a claim that was lost gives nothing up."""
    session, first = await begun_upstream(services)
    assert await services.sessions.claims.requeue(first, burnt=True, reason="lost")
    second = await begin(services, session)
    assert not await services.sessions.claims.give_up_work(first)
    assert await rows(services) == []
    for _ in range(2):
        assert await services.sessions.claims.give_up_work(second)
    cleanup = await due(services)
    assert (cleanup.kind, cleanup.work.key) == (CleanupKind.FORGET, f"{session.id}-1")
    assert await services.sessions.claims.checkpoint(second, {"id": "anew"})
    assert (await due(services)).work.checkpoint == FOUND_BY
    assert await services.sessions.claims.fail(second, "processor_error")
    assert len(await rows(services)) == 2


async def test_cleanup_leads_to_no_session(services: Services) -> None:
    """Of an erased session an encrypted text is left, under a random id."""
    session, _ = await begun_upstream(services)
    await services.sessions.erasure.delete(session.id, session.owner)
    [left] = await rows(services)
    for secret in (session.id, session.id.replace("-", ""), session.owner, "upstream-of-the-photo"):
        assert secret not in str(left)


async def test_receipt_says_none_without_work_upstream(services: Services) -> None:
    """Nothing was begun elsewhere, so there is nothing to wait for."""
    session = await submit(services)
    assert (await services.sessions.erasure.delete(session.id, session.owner)).upstream == "none"
    assert await rows(services) == []


async def test_receipt_says_deleted_when_upstream_was_quicker(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has done the cleanup before the files were removed."""
    session, _ = await begun_upstream(services)
    erase = services.database.writer.erase

    async def after_cleanup(session_ids: Any, **options: Any) -> Any:
        await services.sessions.cleaning.done(await due(services))
        return await erase(session_ids, **options)

    monkeypatch.setattr(services.database.writer, "erase", after_cleanup)
    assert (await services.sessions.erasure.delete(session.id, session.owner)).upstream == "deleted"


@pytest.mark.parametrize("forgotten", [False, True])
async def test_receipt_says_kept_when_nothing_deletes_upstream(services: Services, forgotten: bool) -> None:
    """A processor without `forget` stops the work at most, whichever is quicker."""
    session = await submit(services)
    claim = await begin(services, session)
    assert await services.sessions.claims.checkpoint(claim, FOUND_BY, deletable=False)
    if forgotten:  # after a failure: it was stopped there
        assert await services.sessions.claims.checkpoint(claim, {}, deletable=False)
    assert (await services.sessions.erasure.delete(session.id, session.owner)).upstream == "kept"
    assert (await due(services)).kind is CleanupKind.FORGET  # which stops it


async def test_expired_session_is_forgotten_upstream(services: Services) -> None:
    """It has no time left of its own, so its cleanup gets an hour."""
    session, _ = await begun_upstream(services)
    async with services.database.connections.write() as connection:
        await connection.execute(text("UPDATE tryon_sessions SET expires_at = created_at"))
    (expired,) = await services.database.due.expired(limit=1)
    await services.sessions.erasure.remove(expired, GoneReason.EXPIRED)
    assert (await due(services)).work.key == f"{session.id}-1"
    await services.sessions.cleaning.remove_overdue()
    assert len(await rows(services)) == 1


async def test_deletion_keeps_the_former_expiry(services: Services) -> None:
    """No longer than the session would have lived; then the cleanup is given up."""
    session, _ = await begun_upstream(services)
    await services.sessions.erasure.delete(session.id, session.owner)
    [left] = await rows(services)
    assert str(left["until"])[:19] == str(session.expires_at)[:19]
    async with services.database.connections.write() as connection:
        await connection.execute(text("UPDATE tryon_cleanups SET until = '2026-01-01 00:00:00.000000'"))
    await services.sessions.cleaning.remove_overdue()
    assert await rows(services) == []


async def test_reconciler_enqueues_cleanup_until_it_is_done(services: Services) -> None:
    """One job an attempt, the next after a pause, and none after its success."""
    session, claim = await begun_upstream(services)
    assert await services.sessions.claims.fail(claim, "processor_error")
    await services.redis.flushdb()
    await asyncio.gather(*(services.reconciling.reconciler.maintain() for _ in range(3)))
    waiting = [key.decode() for key in await services.redis.zrange(services.config.queue_name, 0, -1)]
    cleanup = await due(services)
    assert waiting == [f"cleanup-{cleanup.id}:1"]
    assert await services.queue.order(10) == []
    await make_due(services)
    await services.sessions.cleaning.enqueue_due()
    waiting = [key.decode() for key in await services.redis.zrange(services.config.queue_name, 0, -1)]
    assert f"cleanup-{cleanup.id}:2" in waiting
    await services.sessions.cleaning.done(cleanup)
    assert await services.sessions.cleaning.begin(cleanup.id) is None
    assert (await row(services, session)).status.terminal


async def test_cleanup_of_a_removed_processor_waits_for_it(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs no attempt and one line; a worker that has the processor gets it."""
    _, claim = await begun_upstream(services)
    assert await services.sessions.claims.fail(claim, "processor_error")
    await services.redis.flushdb()
    other = ProcessorDirectory(rows=services.database.processors, setting="cog,other", clock=services.clock)
    await other.publish("w1", describe(Info(name="cog")))
    for _ in range(3):
        await make_due(services)
        await services.sessions.cleaning.enqueue_due()
    [left] = await rows(services)
    assert left["attempts"] == 0
    assert await services.redis.zrange(services.config.queue_name, 0, -1) == []
    assert caplog.text.count("Work upstream of mock is not cleaned up for now") == 1

    await services.sessions.processors.publish("w2", describe(Info(name="mock")))
    await make_due(services)
    await services.sessions.cleaning.enqueue_due()
    assert await services.redis.zrange(services.config.queue_name, 0, -1) == [f"cleanup-{left['id']}:1".encode()]


async def test_cleanups_that_wait_for_a_processor_hold_up_no_other(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of them is read over, in the same pass."""
    monkeypatch.setattr(upstream_cleaning, "AT_ONCE", 1)
    for _ in range(2):
        _, claim = await begun_upstream(services)
        assert await services.sessions.claims.fail(claim, "processor_error")
    first, second = (each["id"] for each in await rows(services))
    await services.redis.flushdb()
    await services.sessions.processors.publish("w1", describe(Info(name="mock")))
    monkeypatch.setattr(UpstreamCleaning, "_has_worker", lambda _, cleanup, running: cleanup.id == second)
    await services.sessions.cleaning.enqueue_due()
    assert await services.redis.zrange(services.config.queue_name, 0, -1) == [f"cleanup-{second}:1".encode()]
    assert first in {each["id"] for each in await rows(services)}


async def test_deletion_looks_at_its_own_cleanups_alone(services: Services) -> None:
    """A backlog that waits for a removed processor is the reconciler's."""
    _, earlier = await begun_upstream(services)
    assert await services.sessions.claims.fail(earlier, "processor_error")
    await make_due(services)
    [waits] = await rows(services)
    session, _ = await begun_upstream(services)
    await services.redis.flushdb()
    await services.sessions.processors.publish("w1", describe(Info(name="mock")))
    await services.sessions.erasure.delete(session.id, session.owner)
    left = {each["id"]: each for each in await rows(services)}
    assert left.pop(waits["id"]) == waits
    [own] = left.values()
    assert await services.redis.zrange(services.config.queue_name, 0, -1) == [f"cleanup-{own['id']}:1".encode()]
    assert own["attempts"] == 1


async def test_cleanup_of_deletion_waits_for_its_processor(services: Services) -> None:
    """No worker has it: no attempt is counted."""
    session, _ = await begun_upstream(services)
    await services.redis.flushdb()
    other = ProcessorDirectory(rows=services.database.processors, setting="cog", clock=services.clock)
    await other.publish("w1", describe(Info(name="cog")))
    await services.sessions.erasure.delete(session.id, session.owner)
    [left] = await rows(services)
    assert left["attempts"] == 0
    assert await services.redis.zrange(services.config.queue_name, 0, -1) == []


async def test_attempt_that_a_wrong_worker_took_is_not_counted(services: Services) -> None:
    """Once, and not if another process has counted the next one meanwhile."""
    _, claim = await begun_upstream(services)
    assert await services.sessions.claims.fail(claim, "processor_error")
    await services.sessions.cleaning.enqueue_due()
    taken = await due(services)
    assert taken.attempts == 1
    for _ in range(2):
        await services.sessions.cleaning.hold(taken)
        [left] = await rows(services)
        assert left["attempts"] == 0
    await make_due(services)
    await services.sessions.cleaning.enqueue_due()
    await make_due(services)
    await services.sessions.cleaning.enqueue_due()
    await services.sessions.cleaning.hold(taken)
    assert [each["attempts"] for each in await rows(services)] == [2]


async def test_cleanup_waits_for_redis(config: MakeConfig, database_url: str, start_valkey: StartValkey) -> None:
    """While Redis is unavailable the row stays; a later attempt enqueues it."""
    valkey = start_valkey()
    async with open_services(config(redis_url=valkey.url)) as services:
        _, claim = await begun_upstream(services)
        valkey.kill()
        assert await services.sessions.claims.fail(claim, "processor_error")
        await services.sessions.cleaning.enqueue_due()
        [left] = await rows(services)
        assert left["attempts"] == 1
