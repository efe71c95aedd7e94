"""Overdue sessions fail, and sessions of lost workers go back to the queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import update

from server.adapters.database import tables
from server.adapters.database.tables import database_time
from server.domain.session import Session
from server.services import open_services
from testkit.fixtures import StartValkey
from testkit.running import PHOTO, running_web, until
from tests.server.reconciler.conftest import MakeConfig, Start, submitted, until_status
from tests.server.sessions.conftest import row
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status


@pytest.mark.parametrize("running", [False, True])
async def test_overdue_session_fails_within_two_seconds(start: Start, running: bool) -> None:
    """Fail a waiting and a running session with `timeout`, and notify the client."""
    async with start() as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            if running:
                await web.begin(session)
            async with web.database.connections.write() as connection:
                mine = update(tables.sessions).where(tables.sessions.c.id == session.id)
                await connection.execute(mine.values(deadline_at=database_time(0.2)))
            assert await client.rest(30) == 1000
            event = client.frames[-2]
            assert (event["event"], event["data"]["error"]["code"]) == ("failed", "timeout")
        ended = await row(web.services, session)
        assert ended.finished_at is not None
        assert (ended.finished_at - ended.deadline_at).total_seconds() < 10  # 0.5 on an idle machine, 2 promised


async def test_lapsed_lease_requeues_then_fails(start: Start) -> None:
    """Requeue a session whose lease lapsed, and fail it after the last attempt."""
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


async def test_heartbeat_keeps_the_lease(start: Start) -> None:
    """Leave a session with a worker that renews its lease."""
    async with start(lease_seconds=2.0) as web:
        session, _ = await web.submit()
        claim = await web.begin(session)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert await web.services.sessions.claims.renew(claim) == "held"
            await asyncio.sleep(0.1)
        await web.complete(claim)


async def test_two_concurrent_passes_act_once(config: MakeConfig, database_url: str) -> None:
    """Requeue five sessions once each by two passes at the same time."""
    async with open_services(config(lease_seconds=0.1)) as one, open_services(config(lease_seconds=0.1)) as other:
        submitted = [
            await one.sessions.submissions.submit(owner="o" * 64, inputs=[PHOTO], params={}, request_id=None)
            for _ in range(5)
        ]
        claims = [await one.sessions.claims.begin(session.id, worker="dies") for session in submitted]
        last = max(claim.session.lease_expires_at for claim in claims if claim and claim.session.lease_expires_at)
        await until(lambda: time.time() > last.timestamp() + 0.05)
        async with asyncio.timeout(30):  # a pass of a stalled machine grants leases first
            while [each for each in submitted if (await row(one, each)).status is Status.PROCESSING]:
                await asyncio.gather(one.reconciling.reconciler.maintain(), other.reconciling.reconciler.maintain())
        for session in submitted:
            found = await row(one, session)
            assert (found.status, found.seq, found.burnt) == (Status.CREATED, 3, 1)


async def test_lost_worker_is_noticed_without_redis(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Fail the session of a dead worker while Redis is down."""
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url, lease_seconds=0.5, max_attempts=1)) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            await web.begin(session)
            valkey.kill()
            assert await client.rest(30) == 1000
            assert client.frames[-2]["data"]["error"]["code"] == "worker_lost"


async def test_silent_redis_delays_no_deadline(
    config: MakeConfig, start_valkey: StartValkey, silent_once: None
) -> None:
    """Fail forty overdue sessions in time while Redis answers nothing."""
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url, deadline_seconds=1.0)) as web:
        sessions = [(await web.submit())[0] for _ in range(40)]
        valkey.pause()
        try:
            ended = [await until_status(web.services, each, Status.FAILED, seconds=30) for each in sessions]
        finally:
            valkey.resume()
    late = [(each.finished_at - each.deadline_at).total_seconds() for each in ended if each.finished_at is not None]
    assert len(late) == 40 and max(late) < 10  # 1 on an idle machine; 12 if each publish waited


async def test_session_that_cannot_be_taken_back_delays_no_other(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others of its page go on without it."""
    async with start(lease_seconds=0.3) as web:
        sessions = [(await web.submit())[0] for _ in range(3)]
        requeueing = web.services.sessions.requeueing
        take_back = requeueing.take_back

        async def failing(some: Sequence[Session], **options: Any) -> list[bool]:
            if sessions[0].id in {each.id for each in some}:
                raise ValueError("planted")
            return await take_back(some, **options)

        monkeypatch.setattr(requeueing, "take_back", failing)
        for each in sessions:
            await web.begin(each)
        for each in sessions[1:]:
            assert (await until_status(web.services, each, Status.CREATED)).burnt == 1
        assert (await row(web.services, sessions[0])).status is Status.PROCESSING
        assert f"{sessions[0].id} is left to a later pass" in caplog.text


async def test_locked_session_delays_no_other(postgres_url: str, config: MakeConfig) -> None:
    """Sessions of a dead worker are taken back at once if their rows are free."""
    async with open_services(config(database_url=postgres_url)) as services:
        sessions = [await submitted(services) for _ in range(3)]
        for each in sessions:
            assert await services.sessions.claims.begin(each.id, worker="dead", processors=["mock"])
            assert await services.database.writer.renew(each.id, attempt=1, lease_seconds=-0.1) is False
        held, *free = sessions
        async with services.database.connections.write() as connection:
            mine = tables.sessions.c.id == held.id
            await connection.execute(update(tables.sessions).where(mine).values(burnt=0))
            await services.reconciling.reconciler.maintain()
            assert [(await row(services, each)).status for each in free] == [Status.CREATED] * 2
            await services.reconciling.reconciler.maintain()  # the locked one alone
            with contextlib.suppress(Unavailable), services.reconciling.disturbances.using_database():
                raise Unavailable
            await services.reconciling.reconciler.maintain()  # would extend its lease
            assert (await row(services, held)).status is Status.PROCESSING
        async with asyncio.timeout(10):
            while (await row(services, held)).status is Status.PROCESSING:
                await services.reconciling.reconciler.maintain()
