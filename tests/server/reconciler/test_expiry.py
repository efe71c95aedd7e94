"""What the clock does: photos expire, what stands still is moved on, and orphans are
swept out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from server.adapters.database import tables
from server.adapters.redis.queue import ArqQueue, QueueAway
from server.config.settings import Config
from server.domain.disturbances import Use
from server.domain.session import Session
from server.domain.tokens import token_hash
from server.reconciler import timing
from server.services import Services, open_services
from testkit.fixtures import StartValkey
from testkit.running import PHOTO, Web, new_session, running_web, until
from testkit.values import new_session_id
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import GoneReason, Status

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconciler's own time unit, a tenth of the product's."""
    monkeypatch.setattr(timing, "RECONCILE_SECONDS", 0.2)
    monkeypatch.setattr(timing, "UNQUEUED_SECONDS", 0.5)
    monkeypatch.setattr(timing, "QUEUEING_SECONDS", 0.1)


@pytest.fixture
def start(config: MakeConfig, database_url: str) -> Callable[..., contextlib.AbstractAsyncContextManager[Web]]:
    def begin(**settings: Any) -> contextlib.AbstractAsyncContextManager[Web]:
        return running_web(config(**settings))

    return begin


Start = Callable[..., contextlib.AbstractAsyncContextManager[Web]]


async def row(services: Services, session: Session) -> Session:
    found = await services.database.reading.get(session.id)
    assert found is not None
    return found


async def until_status(services: Services, session: Session, status: Status, *, seconds: float = 8) -> Session:
    async with asyncio.timeout(seconds):
        while (found := await row(services, session)).status is not status:
            await asyncio.sleep(0.02)
    return found


async def submitted(services: Services) -> Session:
    return await services.sessions.submissions.submit(
        owner="o" * 64, image=PHOTO, garment=None, params={}, request_id=None
    )


def files(services: Services) -> list[str]:
    root = services.config.uploads_dir
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# -- expiry ----------------------------------------------------------------------------


async def test_an_expired_session_leaves_nothing_and_its_client_is_told(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tryon")
    async with start(retention_seconds=1.0) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            claim = await web.begin(session)
            await web.services.sessions.claims.report(claim, 0.5, "rendering")
            await client.next("progress")
            assert await client.rest(6) == 4510
            late = web.database.clock.now() - session.expires_at.timestamp()
            assert client.frames[-1]["reason"] == "expired"
        assert late < 5
        assert files(web.services) == []
        assert await web.database.reading.ids_among([session.id]) == set()
        async with web.database.connections.read() as connection:
            count = select(func.count()).select_from(tables.events)
            assert (await connection.execute(count)).scalar_one() == 0

        async def keys() -> list[bytes]:
            return [key for key in await web.services.redis.keys("*") if session.id.encode() in key]

        async with asyncio.timeout(2):  # the last step, after the client was told
            while await keys():
                await asyncio.sleep(0.01)
        answer = await web.client.get(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
        assert answer.status_code == 404
        await until(lambda: f"Cleaned up expired session: {session.id}" in caplog.messages)
    assert "Found 1 expired sessions to clean up" in caplog.messages
    assert f"Deleted input file: inputs/{session.id}-image.jpg" in caplog.messages


async def test_a_completed_session_expires_with_its_result(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tryon")
    async with start(retention_seconds=1.0) as web:
        session, _ = await web.submit()
        await web.complete(await web.begin(session))
        assert len(files(web.services)) == 2
        await until(lambda: not files(web.services), seconds=6)
        await until(lambda: f"Deleted output file: outputs/{session.id}-1.jpg" in caplog.messages)


async def test_an_expired_session_cannot_be_read_even_if_nobody_erases_it(
    config: MakeConfig, database_url: str
) -> None:
    async with open_services(config(retention_seconds=1.0)) as services:  # no maintenance runs here
        session = await services.sessions.submissions.submit(
            owner="o" * 64, image=PHOTO, garment=None, params={}, request_id=None
        )
        assert await services.database.reading.get(session.id) is not None
        await until(lambda: time.time() > session.expires_at.timestamp() + 0.05)
        assert await services.database.reading.get(session.id) is None
        assert await services.sessions.claims.begin(session.id, worker="w") is None
        assert files(services), "still there, but for nobody"


async def test_sessions_that_live_are_left_alone(start: Start) -> None:
    async with start() as web:
        waiting, _ = await web.submit()
        running, _ = await web.submit()
        claim = await web.begin(running)
        done, _ = await web.submit()
        await web.complete(await web.begin(done))
        for _ in range(3):
            await web.services.reconciling.reconciler.maintain()
            await web.services.reconciling.cleanup.sweep()
        assert (await row(web.services, waiting)).enqueues == 1
        assert (await row(web.services, running)).seq == claim.session.seq
        assert len(files(web.services)) == 4


async def test_when_the_process_that_reconciles_ends_another_takes_over(config: MakeConfig, database_url: str) -> None:
    async with running_web(config(retention_seconds=2.0)) as first:
        async with asyncio.timeout(5):  # it holds the lease
            while not await first.database.leases.take(
                "reconcile", owner=first.services.reconciling.chores.process_name, seconds=9
            ):
                await asyncio.sleep(0.02)
        session, _ = await first.submit()
    async with running_web(config()) as second:
        second.services.reconciling.chores.process_name = "another process"
        await until(lambda: not files(second.services), seconds=7)
        late = second.database.clock.now() - session.expires_at.timestamp()
        assert late < 5


async def test_one_that_cannot_be_erased_keeps_no_other_from_its_due(
    config: MakeConfig, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tryon")
    async with open_services(config()) as services:
        waiting = await submitted(services)
        expired = [await submitted(services) for _ in range(4)]
        stuck = services.config.uploads_dir / expired[0].input_key
        stuck.unlink()
        stuck.mkdir()  # cannot be deleted as a file
        for each in expired:
            await services.database.writing.mark_deleted(each.id, id_hash=str)
        await services.redis.flushall()
        await until(lambda: time.time() > expired[-1].updated_at.timestamp() + 0.6)
        for _ in range(3):
            await services.reconciling.reconciler.maintain()
        assert await services.database.reading.ids_among([each.id for each in expired]) == {expired[0].id}
        assert (await row(services, waiting)).enqueues == 2
        assert await services.reconciling.reconciler.until_due() > 1, "it calls for no next pass"
        complaints = [each for each in caplog.messages if f"{expired[0].id} must wait" in each]
        assert len(complaints) == 1, "it was tried again at once, twice"
        stuck.rmdir()
        services.reconciling.expiry._stuck.clear()  # later
        await services.reconciling.reconciler.maintain()
        assert await services.database.reading.ids_among([expired[0].id]) == set()


async def test_many_that_expire_at_once_keep_nobody_from_the_deadline(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can wait gives way: each pass looks for those that cannot first, and follows
    at once while there is more.
    """
    async with open_services(config()) as services:
        expired = [await submitted(services) for _ in range(4)]
        for each in expired:
            await services.database.writing.mark_deleted(each.id, id_hash=str)

        monkeypatch.setattr(timing, "PASS_SECONDS", 0.0)  # erasing one takes longer, and so does reading
        for left in (3, 2, 1):
            late = await services.database.writing.insert(new_session(deadline_seconds=-1))
            await services.reconciling.reconciler.maintain()
            assert (await row(services, late)).error_code == "timeout"
            assert len(await services.database.reading.ids_among([each.id for each in expired])) == left
            assert await services.reconciling.reconciler.until_due() == 0.0
        await services.reconciling.reconciler.maintain()
        assert await services.database.reading.ids_among([each.id for each in expired]) == set()


async def test_results_of_many_that_died_are_looked_for_once(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_services(config()) as services:
        expired = [await submitted(services) for _ in range(5)]
        for each in expired:
            assert await services.sessions.claims.begin(each.id, worker="dies") is not None
            await services.files.put(f"outputs/{each.id}-1.jpg", b"nobody knows of me")
            await services.database.writing.mark_deleted(each.id, id_hash=str)
        listings: list[Any] = []
        listdir = os.listdir

        def counted(path: Any) -> list[str]:
            listings.append(path)
            return listdir(path)

        monkeypatch.setattr(os, "listdir", counted)
        await services.reconciling.reconciler.maintain()
        assert files(services) == []
        assert len(listings) == 1


async def test_what_somebody_deleted_is_never_said_to_have_expired(start: Start) -> None:
    """Whoever deletes hides it first, and may then die or be slow: the reconciler
    erases what was hidden.
    """
    async with start() as web:
        session, token = await web.submit()
        kept, _ = await web.submit()
        since = await web.database.feed.cursor()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            await web.database.writing.mark_deleted(session.id, id_hash=web.services.signer.tombstone_hash)
            await web.services.reconciling.reconciler.maintain()
            assert await client.rest(6) == 4510
            assert client.frames[-1]["reason"] == "deleted"
        assert {reason for _, reason in (await web.database.feed.page(since)).tombstones} == {GoneReason.DELETED}
        assert await web.database.reading.ids_among([session.id, kept.id]) == {kept.id}


async def test_word_of_the_erased_is_forgotten_by_the_reconciler(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.adapters.database.tombstones.TOMBSTONE_SECONDS", -1.0)
    async with open_services(config()) as services:
        session = await submitted(services)
        start = await services.database.feed.cursor()
        await services.sessions.erasure.delete(session.id, session.owner)
        assert (await services.database.feed.page(start)).tombstones
        await services.reconciling.reconciler.maintain()
        assert (await services.database.feed.page(start)).tombstones == []


async def test_a_process_that_ends_leaves_its_chores_to_others_at_once(config: MakeConfig, database_url: str) -> None:
    async with open_services(config(cleanup_seconds=3600.0)) as services:
        chores, leases = services.reconciling.chores, services.database.leases
        async with services.reconciling.maintenance.running():
            await until(lambda: chores._held == {"reconcile", "cleanup"})
            await leases.take("cleanup", owner=chores.process_name, seconds=60)
            assert not await leases.take("cleanup", owner="another", seconds=60)
        for chore in ("reconcile", "cleanup"):
            assert await leases.take(chore, owner="another", seconds=60)


# -- what stands still -----------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
async def test_past_its_deadline_a_session_fails_within_two_seconds(start: Start, running: bool) -> None:
    async with start(deadline_seconds=0.5) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            if running:
                await web.begin(session)
            assert await client.rest(6) == 1000
            event = client.frames[-2]
            assert (event["event"], event["data"]["error"]["code"]) == ("failed", "timeout")
        ended = await row(web.services, session)
        assert ended.finished_at is not None
        assert (ended.finished_at - ended.deadline_at).total_seconds() < 2


async def test_a_lapsed_lease_is_queued_again_and_lost_after_the_last_attempt(start: Start) -> None:
    async with start(lease_seconds=0.3, max_attempts=2) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            first = await web.begin(session)
            again = await until_status(web.services, session, Status.CREATED)
            assert (again.attempt, again.burnt) == (1, 1)
            async with asyncio.timeout(5):  # after the commit
                while not await web.services.queue.contains(session.id, 1, again.enqueues):
                    await asyncio.sleep(0.01)
            assert await web.services.sessions.claims.renew(first) == "lost"
            await web.begin(session)
            ended = await until_status(web.services, session, Status.FAILED)
            assert (ended.error_code, ended.burnt) == ("worker_lost", 2)
            assert await client.rest() == 1000
            assert client.story() == [1, 2, 3, 4, 5]
        history = await web.client.get(f"/api/tryon/sessions/{session.id}/history", headers={"X-Client-Token": token})
        assert [event["event"] for event in history.json()["events"]] == [
            "created",
            "processing",
            "requeued",
            "processing",
            "failed",
        ]


async def test_a_heartbeat_keeps_the_lease(start: Start) -> None:
    async with start(lease_seconds=0.5) as web:
        session, _ = await web.submit()
        claim = await web.begin(session)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert await web.services.sessions.claims.renew(claim) == "held"
            await asyncio.sleep(0.1)
        await web.complete(claim)


async def test_a_session_whose_job_redis_forgot_is_queued_again(start: Start) -> None:
    async with start() as web:
        session, _ = await web.submit()
        await web.services.redis.flushall()
        async with asyncio.timeout(6):
            while True:
                found = await row(web.services, session)
                if found.enqueues > 1 and await web.services.queue.contains(session.id, 0, found.enqueues):
                    break
                await asyncio.sleep(0.02)
        assert (found.status, found.seq) == (Status.CREATED, 1)


# -- what only looks like the death of all workers -------------------------------------


async def lapsed(services: Services) -> Session:
    """A session that runs, whose worker could not renew its lease in time."""
    session = await submitted(services)
    claim = await services.sessions.claims.begin(session.id, worker="lives")
    assert claim is not None
    assert await services.database.writing.renew(session.id, attempt=1, lease_seconds=-0.1) is False
    return claim.session


async def _fail_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        async def away(**_: Any) -> Any:
            raise Unavailable

        patch.setattr(services.database.due, "due", away)
        with pytest.raises(Unavailable):
            await services.reconciling.reconciler.maintain()


def _passed(services: Services, *, seconds: float, clock_seconds: float) -> None:
    """So much time goes by between two passes, and so much by the database's clock."""
    last = services.reconciling.disturbances._last_use
    assert last is not None
    services.reconciling.disturbances._last_use = Use(last.at - seconds, last.clock - clock_seconds)


@pytest.mark.parametrize("what", ["outage", "late", "clock ahead", "clock back"])
async def test_after_a_disturbance_every_lease_lasts_one_more_period(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with open_services(config(lease_seconds=0.6)) as services:
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        match what:
            case "outage":
                await _fail_once(services, monkeypatch)
            case "late":
                _passed(services, seconds=60, clock_seconds=60)
            case "clock ahead":
                _passed(services, seconds=0, clock_seconds=25 * 3600)
            case "clock back":
                _passed(services, seconds=0, clock_seconds=-25 * 3600)
        await services.reconciling.reconciler.maintain()
        granted = await row(services, session)
        assert (granted.status, granted.seq) == (Status.PROCESSING, 2), "its worker had no chance"
        await services.reconciling.reconciler.maintain()
        assert await row(services, session) == granted, "once, not again and again"
        async with asyncio.timeout(8):
            while (again := await row(services, session)).status is Status.PROCESSING:
                await services.reconciling.reconciler.maintain()
                await asyncio.sleep(0.02)
        assert (again.status, again.seq, again.burnt) == (Status.CREATED, 3, 1), "its worker was dead after all"
        assert granted.lease_expires_at is not None
        assert again.updated_at >= granted.lease_expires_at


async def test_a_second_disturbance_grants_nothing_to_who_has_not_used_the_first(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the database goes away, the sessions of a dead worker are taken
    back.
    """
    async with open_services(config(lease_seconds=0.6)) as services:
        await services.reconciling.reconciler.maintain()
        dead, alive = await lapsed(services), await lapsed(services)
        await _fail_once(services, monkeypatch)
        await services.reconciling.reconciler.maintain()
        assert await services.database.writing.renew(alive.id, attempt=1, lease_seconds=60) is False
        ends = (await row(services, dead)).lease_expires_at
        assert ends is not None
        await until(lambda: time.time() > ends.timestamp() + 0.05)
        await _fail_once(services, monkeypatch)
        await services.reconciling.reconciler.maintain()
        await services.reconciling.reconciler.maintain()
        assert (await row(services, dead)).status is Status.CREATED
        assert (await row(services, alive)).status is Status.PROCESSING


async def test_a_lease_that_lapses_in_quiet_times_is_granted_nothing(config: MakeConfig, database_url: str) -> None:
    async with open_services(config()) as services:
        for _ in range(3):
            await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.CREATED


async def test_a_disturbance_in_the_middle_of_a_pass_ends_it(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_services(config()) as services:
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        due = services.database.due.due

        async def slow(**what: Any) -> list[Session]:
            page = await due(**what)
            _passed(services, seconds=60, clock_seconds=60)
            return page

        with monkeypatch.context() as patch:
            patch.setattr(services.database.due, "due", slow)
            await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


async def test_who_has_a_chore_keeps_it_however_long_it_takes(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_services(config()) as services:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def long() -> None:
            begun.set()
            await go_on.wait()

        monkeypatch.setattr(services.reconciling.reconciler, "maintain", long)
        async with services.reconciling.maintenance.running():
            await begun.wait()
            ends = time.monotonic() + 3 * 2 * timing.RECONCILE_SECONDS
            while time.monotonic() < ends:
                assert not await services.database.leases.take("reconcile", owner="another", seconds=1)
                await asyncio.sleep(0.02)
            go_on.set()


async def test_a_killed_processs_chores_are_taken_over_when_its_lease_ends(
    config: MakeConfig, database_url: str
) -> None:
    async with open_services(config()) as services:
        await services.database.leases.take("reconcile", owner="killed", seconds=2 * timing.RECONCILE_SECONDS)
        late = await services.database.writing.insert(new_session(deadline_seconds=-1))
        async with services.reconciling.maintenance.running():
            await until_status(services, late, Status.FAILED)


async def test_a_clock_that_was_set_back_grants_what_was_granted_before(config: MakeConfig, database_url: str) -> None:
    """The times of what was granted are those of another clock."""
    async with open_services(config(lease_seconds=0.6)) as services:
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        _passed(services, seconds=60, clock_seconds=60)
        await services.reconciling.reconciler.maintain()
        ends = (await row(services, session)).lease_expires_at
        assert ends is not None
        await until(lambda: time.time() > ends.timestamp())
        _passed(services, seconds=0, clock_seconds=-25 * 3600)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


async def test_who_is_erased_while_it_is_queued_again_leaves_no_job(
    config: MakeConfig, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_services(config()) as services:
        session = await submitted(services)
        await services.redis.flushall()
        enqueue = services.queue.enqueue

        async def late(*what: Any, **more: Any) -> int:
            await services.sessions.erasure.delete(session.id, session.owner)
            return await enqueue(*what, **more)

        monkeypatch.setattr(services.queue, "enqueue", late)
        assert await services.sessions.queueing.enqueue_again(session)
        assert [key async for key in services.redis.scan_iter(f"*{session.id}*")] == []
        assert await services.queue.depth() == 0


async def test_a_database_that_lets_nobody_write_for_a_while_ends_no_lease(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not long enough for an error, and too long for a short lease."""
    async with open_services(config(lease_seconds=0.3)) as services:
        assert await services.reconciling.chores.hold("reconcile", seconds=60)
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        take_lease = services.database.leases.take

        async def late(*what: Any, **more: Any) -> bool:
            await asyncio.sleep(0.15)  # half of the lease
            return await take_lease(*what, **more)

        monkeypatch.setattr(services.database.leases, "take", late)
        assert await services.reconciling.chores.hold("reconcile", seconds=60)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


async def test_who_takes_over_after_an_outage_grants_what_its_predecessor_could_not(
    config: MakeConfig, database_url: str
) -> None:
    async with open_services(config()) as services:
        chores = services.reconciling.chores
        await services.database.leases.take("reconcile", owner="another", seconds=60)
        assert not await chores.hold("reconcile", seconds=60)
        session = await lapsed(services)
        _passed(services, seconds=60, clock_seconds=60)
        for _ in range(2):  # the other one still has the lease, but is dead
            assert not await chores.hold("reconcile", seconds=60)
        await services.database.leases.drop("reconcile", owner="another")
        assert await chores.hold("reconcile", seconds=60)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


async def test_a_clock_that_was_set_back_lets_nobody_wait_longer(config: MakeConfig, database_url: str) -> None:
    async with open_services(config(deadline_seconds=600, retention_seconds=86400)) as services:
        await services.reconciling.reconciler.maintain()
        ahead = 25 * 3600
        waiting = await services.database.writing.insert(
            new_session(deadline_seconds=600 + ahead, retention_seconds=86400 + ahead)
        )
        assert await services.database.leases.take("cleanup", owner="dead", seconds=60 + ahead)
        _passed(services, seconds=0, clock_seconds=-ahead)
        now = services.database.clock.now()
        await services.reconciling.reconciler.maintain()
        bounded = await row(services, waiting)
        assert bounded.deadline_at.timestamp() == pytest.approx(now + 600, abs=30)
        assert bounded.expires_at.timestamp() == pytest.approx(now + 86400, abs=30)
        assert await services.database.leases.take("cleanup", owner="alive", seconds=60)


@pytest.mark.parametrize("lost", ["jobs", "the way there"])
async def test_when_redis_is_back_nobody_waits_until_it_looks_as_if_a_job_was_missing(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    # Only one can have done it: the reconciler for lost jobs, else the process that
    # could not queue it.
    monkeypatch.setattr(timing, "UNQUEUED_SECONDS", 60.0)
    monkeypatch.setattr(timing, "ENQUEUE_SECONDS", 60.0 if lost == "jobs" else 0.2)
    monkeypatch.setattr(timing, "RECONCILE_SECONDS", 0.2 if lost == "jobs" else 60.0)
    valkey = start_valkey(persistent=lost != "jobs")
    async with running_web(config(redis_url=valkey.url)) as web:
        queue = web.services.queue
        await until(lambda: not web.services.reconciling.lost_jobs._queue_lost)  # the reconciler knows this Redis
        if lost == "jobs":
            session, _ = await web.submit()
            assert await queue.depth() == 1
            valkey.kill()
        else:
            valkey.stop()
            session, _ = await web.submit()
        valkey.start()
        async with asyncio.timeout(10):
            while await queued(queue) != [session.id]:
                await asyncio.sleep(0.02)
        found = await row(web.services, session)
        assert (found.status, found.seq) == (Status.CREATED, 1)
        if lost != "jobs":
            assert found.enqueues == 1, "it is the same job: nobody else knew that it had failed"


async def queued(queue: ArqQueue) -> list[str]:
    try:
        return await queue.order(10)
    except QueueAway:
        return []


async def test_what_could_not_be_queued_and_has_ended_meanwhile_is_forgotten(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "ENQUEUE_SECONDS", 0.1)
    valkey = start_valkey(persistent=True)
    async with running_web(config(redis_url=valkey.url)) as web:
        valkey.stop()
        session, token = await web.submit()
        await web.services.sessions.cancelling.cancel(session.id, token_hash(token))
        valkey.start()
        await until(lambda: not web.services.sessions.queueing._unqueued)
        assert await queued(web.services.queue) == []


async def test_two_reconcilers_at_once_do_everything_once(config: MakeConfig, database_url: str) -> None:
    async with open_services(config(lease_seconds=0.1)) as one, open_services(config(lease_seconds=0.1)) as other:
        submitted = [
            await one.sessions.submissions.submit(owner="o" * 64, image=PHOTO, garment=None, params={}, request_id=None)
            for _ in range(5)
        ]
        claims = [await one.sessions.claims.begin(session.id, worker="dies") for session in submitted]
        last = max(claim.session.lease_expires_at for claim in claims if claim and claim.session.lease_expires_at)
        await until(lambda: time.time() > last.timestamp() + 0.05)
        await asyncio.gather(one.reconciling.reconciler.maintain(), other.reconciling.reconciler.maintain())
        for session in submitted:
            found = await row(one, session)
            assert (found.status, found.seq, found.burnt) == (Status.CREATED, 3, 1)


async def test_a_job_of_somebody_else_in_the_queue_keeps_nothing_from_its_due(config: MakeConfig) -> None:
    async with open_services(config()) as services:
        waiting = await submitted(services)
        await services.redis.flushall()
        await services.redis.zadd(services.config.queue_name, {"\xff é".encode("latin-1"): 1})
        await until(lambda: time.time() > waiting.updated_at.timestamp() + 0.6)
        await services.reconciling.reconciler.maintain()
        assert waiting.id in await services.queue.order(10)


async def test_all_waiting_sessions_are_queued_again_however_many(config: MakeConfig) -> None:
    """Redis came back empty while more waited than fit into one page."""
    async with open_services(config()) as services:
        submitted = [
            await services.sessions.submissions.submit(
                owner="o" * 64, image=PHOTO, garment=None, params={}, request_id=None
            )
            for _ in range(130)
        ]
        await services.redis.flushall()
        await until(lambda: time.time() > submitted[-1].updated_at.timestamp() + 0.6)
        async with asyncio.timeout(60):
            await services.reconciling.reconciler.maintain()
            while services.reconciling.reconciler._left_over:  # of a slow machine; then the next pass follows at once
                await services.reconciling.reconciler.maintain()
        assert await services.queue.depth() == 130


# -- orphans ---------------------------------------------------------------------------


async def test_old_files_without_a_row_are_swept_out_and_no_others(
    config: MakeConfig, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tryon")
    async with open_services(config()) as services:
        session = await services.sessions.submissions.submit(
            owner="o" * 64, image=PHOTO, garment=None, params={}, request_id=None
        )
        orphan, fresh = f"inputs/{new_session_id()}-image.jpg", f"inputs/{new_session_id()}-image.jpg"
        draft = f"outputs/{session.id}-1.jpg.{'0' * 16}.part"
        written = f"outputs/{new_session_id()}-1.jpg.{'0' * 16}.part"
        result, erased = f"outputs/{session.id}-1.jpg", f"outputs/{new_session_id()}-1.jpg"
        await services.files.put(result, b"of a worker that has yet to say so")
        await services.files.put(erased, b"of a worker that was killed while its session was erased")
        (services.config.uploads_dir / written).write_bytes(b"being written")
        await services.files.put(orphan, b"old")
        await services.files.put(fresh, b"an upload in flight")
        (services.config.uploads_dir / draft).write_bytes(b"half a result")
        for key in (orphan, session.input_key, draft):
            past = time.time() - 2 * timing.ORPHAN_SECONDS
            os.utime(services.config.uploads_dir / key, (past, past))
        await services.reconciling.cleanup.sweep()
        assert files(services) == sorted([fresh, session.input_key, result, written])
        assert f"Deleted orphaned file: {orphan}" in caplog.messages
        assert f"Deleted orphaned file: {erased}" in caplog.messages


# -- without its servers ---------------------------------------------------------------


async def test_expiry_needs_no_redis(config: MakeConfig, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url, retention_seconds=1.5)) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            valkey.kill()
            assert await client.rest(8) == 4510
            assert client.frames[-1]["reason"] == "expired"
        await until(lambda: not files(web.services), seconds=6)


async def test_a_lost_worker_is_noticed_without_redis(config: MakeConfig, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url, lease_seconds=0.5, max_attempts=1)) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            await web.begin(session)
            valkey.kill()
            assert await client.rest(8) == 1000
            assert client.frames[-2]["data"]["error"]["code"] == "worker_lost"


async def test_a_silent_redis_delays_no_deadline(config: MakeConfig, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url, deadline_seconds=1.0)) as web:
        sessions = [(await web.submit())[0] for _ in range(12)]
        valkey.pause()
        try:
            ended = [await until_status(web.services, each, Status.FAILED, seconds=6) for each in sessions]
        finally:
            valkey.resume()
    late = [(each.finished_at - each.deadline_at).total_seconds() for each in ended if each.finished_at is not None]
    assert len(late) == 12 and max(late) < 2


async def test_a_silent_redis_delays_no_erasure(config: MakeConfig, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url, retention_seconds=1.0)) as web:
        sessions = [(await web.submit())[0] for _ in range(12)]
        valkey.pause()
        try:
            await until(lambda: not files(web.services), seconds=6)
            assert web.database.clock.now() - sessions[-1].expires_at.timestamp() < 5
        finally:
            valkey.resume()
