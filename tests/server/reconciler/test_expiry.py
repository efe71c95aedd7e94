"""Expired sessions: unreadable at once, erased soon, with all their files."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from server.adapters.database import tables, writing
from server.adapters.database.engine import Connections
from server.adapters.database.tables import database_time
from server.domain.session import Session
from server.reconciler import expiry, timing
from server.reconciler.expiry import FAILURES_IN_A_ROW
from server.reconciler.steps import FEWEST_ITEMS, HELD_SECONDS
from server.services import Services, open_services
from testkit.fixtures import StartValkey
from testkit.running import new_session, running_web, until
from tests.server.reconciler.conftest import MakeConfig, Start, submitted
from tests.server.sessions.conftest import files, row
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import GoneReason


async def test_expired_session_leaves_nothing(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Erase an expired session while it runs, and notify its connected client."""
    caplog.set_level(logging.INFO, "tryon")
    async with start() as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            claim = await web.begin(session)
            await web.services.sessions.claims.report(claim, 0.5, "rendering")
            await client.next("progress")
            expired_at = web.database.clock.now()
            await expire(web.services, session)
            assert await client.rest(30) == 4510
            late = web.database.clock.now() - expired_at
            assert client.frames[-1]["reason"] == "expired"
        assert late < 10  # 1 on an idle machine
        await until(lambda: not files(web.services), seconds=30)  # its client was notified first
        async with asyncio.timeout(5):
            while await web.database.reader.ids_among([session.id]):
                await asyncio.sleep(0.01)
        async with web.database.connections.read() as connection:
            count = select(func.count()).select_from(tables.events)
            assert (await connection.execute(count)).scalar_one() == 0

        async def keys() -> list[bytes]:
            return [key for key in await web.services.redis.keys("*") if session.id.encode() in key]

        async with asyncio.timeout(20):  # the last step, after the client was notified
            while await keys():
                await asyncio.sleep(0.01)
        answer = await web.client.get(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
        assert answer.status_code == 404
        await until(lambda: f"Cleaned up expired session: {session.id}" in caplog.messages)
    assert "Found 1 expired sessions to clean up" in caplog.messages
    assert f"Deleted input file: inputs/{session.id}-person-0.jpg" in caplog.messages


async def test_completed_session_expires_with_its_result(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Delete photo and result when a completed session expires."""
    caplog.set_level(logging.INFO, "tryon")
    async with start() as web:
        session, _ = await web.submit()
        await web.complete(await web.begin(session))
        assert len(files(web.services)) == 2
        await expire(web.services, session)
        await until(lambda: not files(web.services), seconds=30)
        await until(lambda: f"Deleted output file: outputs/{session.id}-1-result-0.jpg" in caplog.messages)


async def test_expired_session_is_unreadable_before_erasure(config: MakeConfig, database_url: str) -> None:
    """Hide an expired session at its time, while its files still exist."""
    async with open_services(config()) as services:  # no maintenance runs here
        session = await submitted(services)
        assert await services.database.reader.get(session.id) is not None
        await expire(services, session)
        assert await services.database.reader.get(session.id) is None
        assert await services.sessions.claims.begin(session.id, worker="w") is None
        assert files(services), "stored, but unreadable"


async def test_stuck_session_delays_no_other(
    config: MakeConfig, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Erase and enqueue the others while one session's file cannot be deleted."""
    caplog.set_level(logging.INFO, "tryon")
    async with open_services(config()) as services:
        waiting = await submitted(services)
        expired = [await submitted(services) for _ in range(4)]
        stuck = services.config.uploads_dir / expired[0].inputs[0].key
        stuck.unlink()
        stuck.mkdir()  # cannot be deleted as a file
        for each in expired:
            await services.database.writer.mark_deleted(each.id, id_hash=str)
        await services.redis.flushall()
        await until(lambda: time.time() > expired[-1].updated_at.timestamp() + 0.6)
        for _ in range(3):
            await services.reconciling.reconciler.maintain()
        assert await services.database.reader.ids_among([each.id for each in expired]) == {expired[0].id}
        assert (await row(services, waiting)).enqueues == 2
        assert await services.reconciling.reconciler.until_due() > 1, "it calls for no next pass"
        left = f"{expired[0].id} is left to a later pass"
        tries = [each.created for each in caplog.records if left in each.getMessage()]
        assert tries
        assert all(after - before > 0.9 for before, after in pairwise(tries)), "it was tried again at once"
        stuck.rmdir()
        services.reconciling.expiry._ended.clear()  # another process
        await services.reconciling.reconciler.maintain()
        assert await services.database.reader.ids_among([expired[0].id]) == set()


def undeletable(path: Path) -> None:
    """Put a folder in a file's place: no call deletes it as a file."""
    path.unlink()
    path.mkdir()


async def test_expired_clients_are_notified_when_storage_cannot_delete(start: Start, config: MakeConfig) -> None:
    """Its client learns of the end in time; the files go in whichever process lives."""
    async with start() as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            undeletable(web.config.uploads_dir / session.inputs[0].key)
            expired_at = web.database.clock.now()
            await expire(web.services, session)
            assert await client.rest(30) == 4510
            assert web.database.clock.now() - expired_at < 10  # 1 on an idle machine
            assert client.frames[-1]["reason"] == "expired"
        assert await web.database.reader.ids_among([session.id]) == {session.id}, "it remembers the files"
    async with open_services(config()) as later:  # the first process is gone
        await later.reconciling.reconciler.maintain()
        assert await later.database.reader.ids_among([session.id]) == {session.id}
        (later.config.uploads_dir / session.inputs[0].key).rmdir()
        async with asyncio.timeout(8):
            while not await removed(later, session.id):
                await asyncio.sleep(0.05)


async def removed(services: Services, session_id: str) -> bool:
    """Run a pass; return whether the session has no row any more."""
    await services.reconciling.reconciler.maintain()
    return not await services.database.reader.ids_among([session_id])


async def test_silent_storage_delays_no_pass(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End and time out other sessions while a removal hangs, and end with it."""
    async with open_services(config()) as services:
        reconciler = services.reconciling.reconciler
        first, second = await submitted(services), await submitted(services)
        since = await services.database.feed.cursor()
        hanging = asyncio.Event()

        async def silent(keys: Iterable[str]) -> list[str]:
            hanging.set()
            await asyncio.Event().wait()
            return []

        with monkeypatch.context() as patch:
            patch.setattr(timing, "REMOVAL_SECONDS", 0.05)
            patch.setattr(services.files, "delete", silent)
            for session in (first, second):
                await expire(services, session)
                late = await services.database.writer.insert(new_session(deadline_seconds=-1))
                await reconciler.maintain()
                assert (await row(services, late)).error_code == "timeout"
            async with asyncio.timeout(10):
                await hanging.wait()
            ended = [reason for _, reason in (await services.database.feed.page(since)).tombstones]
            assert ended == [GoneReason.EXPIRED] * 2, "each once"
            await reconciler.stop()
        await reconciler.maintain()
        assert await services.database.reader.ids_among([first.id, second.id]) == set()


async def test_session_removed_during_a_pass_ends_once(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The removal beside the passes ends between a pass's reading and its answer."""
    caplog.set_level(logging.INFO, "tryon")
    monkeypatch.setattr(timing, "REMOVAL_SECONDS", 0.05)
    async with open_services(config()) as services:
        reconciler, ending = services.reconciling.reconciler, services.reconciling.expiry
        session = await submitted(services)
        await expire(services, session)
        released = asyncio.Event()
        delete, expired = services.files.delete, services.database.due.expired

        async def slow(keys: Iterable[str]) -> list[str]:
            await released.wait()
            return await delete(keys)

        async def overtaken(*, after: Session | None = None, limit: int) -> list[Session]:
            page = await expired(after=after, limit=limit)
            if ending._removing is not None:
                released.set()
                await asyncio.wait({ending._removing})
            return page

        monkeypatch.setattr(services.files, "delete", slow)
        monkeypatch.setattr(services.database.due, "expired", overtaken)
        await reconciler.maintain()
        await reconciler.maintain()
        assert await services.database.reader.ids_among([session.id]) == set()
        assert len([each for each in caplog.messages if each.startswith("Found 1 expired")]) == 1
        assert ending._ended == {}


async def expire(services: Services, session: Session) -> None:
    """Let a session's retention end now."""
    async with services.database.connections.write() as connection:
        ending = update(tables.sessions).where(tables.sessions.c.id == session.id)
        await connection.execute(ending.values(expires_at=database_time()))


async def test_failing_storage_is_tried_a_few_times_a_pass(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Log a few of thirty sessions a pass; with the storage back, all of them go."""
    monkeypatch.setattr(timing, "STUCK_SECONDS", 0.0)
    async with open_services(config()) as services:
        sessions = [await submitted(services) for _ in range(30)]
        for each in sessions:
            await expire(services, each)

        async def failing(keys: Iterable[str]) -> list[str]:
            raise Unavailable

        with monkeypatch.context() as patch:
            patch.setattr(services.files, "delete", failing)
            await services.reconciling.reconciler.maintain()
            assert len([each for each in caplog.messages if "is left to a later pass" in each]) == FAILURES_IN_A_ROW
        await services.reconciling.reconciler.maintain()
        assert await services.database.reader.ids_among([each.id for each in sessions]) == set()


async def test_unnamed_results_need_one_listing(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """List the results and the previews of five dead attempts once."""
    async with open_services(config()) as services:
        expired = [await submitted(services) for _ in range(5)]
        for each in expired:
            assert await services.sessions.claims.begin(each.id, worker="dies") is not None
            await services.files.put(f"outputs/{each.id}-1.jpg", b"named by no row")
            await services.database.writer.mark_deleted(each.id, id_hash=str)
        listings: list[Any] = []
        listdir = os.listdir

        def counted(path: Any) -> list[str]:
            listings.append(path)
            return listdir(path)

        monkeypatch.setattr(os, "listdir", counted)
        await services.reconciling.reconciler.maintain()
        assert files(services) == []
        assert len(listings) == 2


async def test_deleted_session_is_never_called_expired(start: Start) -> None:
    """Erase as deleted a session whose deletion stopped half-way."""
    async with start() as web:
        session, token = await web.submit()
        kept, _ = await web.submit()
        since = await web.database.feed.cursor()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            await web.database.writer.mark_deleted(session.id, id_hash=web.services.signer.tombstone_hash)
            await web.services.reconciling.reconciler.maintain()
            assert await client.rest(30) == 4510
            assert client.frames[-1]["reason"] == "deleted"
        assert {reason for _, reason in (await web.database.feed.page(since)).tombstones} == {GoneReason.DELETED}
        assert await web.database.reader.ids_among([session.id, kept.id]) == {kept.id}


async def test_expiry_needs_no_redis(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Erase a session and notify its client while Redis is down."""
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url)) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            valkey.kill()
            await expire(web.services, session)
            assert await client.rest(30) == 4510
            assert client.frames[-1]["reason"] == "expired"
        await until(lambda: not files(web.services), seconds=30)


async def test_silent_redis_delays_no_erasure(config: MakeConfig, start_valkey: StartValkey, silent_once: None) -> None:
    """Erase forty sessions in time while Redis answers nothing."""
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url, retention_seconds=1.0)) as web:
        sessions = [(await web.submit())[0] for _ in range(40)]
        valkey.pause()
        try:
            await until(lambda: not files(web.services), seconds=30)
            assert (
                web.database.clock.now() - sessions[-1].expires_at.timestamp() < 15
            )  # 1 on an idle machine; 20 if each waited
        finally:
            valkey.resume()


async def test_pass_reads_few_of_many_sessions_that_wait_for_removal(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty cannot be removed; each pass reads two pages, and ends the new ones."""
    monkeypatch.setattr(expiry, "EXPIRED_AT_ONCE", 3)
    async with open_services(config()) as services:
        reconciler, ending = services.reconciling.reconciler, services.reconciling.expiry
        read: list[int] = []
        expired = services.database.due.expired

        async def counted(*, after: Session | None = None, limit: int) -> list[Session]:
            page = await expired(after=after, limit=limit)
            read.append(len(page))
            return page

        async def failing(keys: Iterable[str]) -> list[str]:
            raise Unavailable

        monkeypatch.setattr(services.database.due, "expired", counted)
        sessions = [await submitted(services) for _ in range(20)]
        for each in sessions:
            await expire(services, each)
        with monkeypatch.context() as patch:
            patch.setattr(services.files, "delete", failing)
            while len(ending._ended) < len(sessions):
                await reconciler.maintain()
            await reconciler.maintain()
            new = await submitted(services)
            await expire(services, new)
            read.clear()
            await reconciler.maintain()
            assert new.id in ending._ended
            assert sum(read) <= 6
            overtaken = await submitted(services)
            async with services.database.connections.write() as connection:
                row = update(tables.sessions).where(tables.sessions.c.id == overtaken.id)
                await connection.execute(row.values(expires_at=database_time(-60)))
            async with asyncio.timeout(10):
                while overtaken.id not in ending._ended:
                    await reconciler.maintain()
            assert max(read) <= 3
        async with asyncio.timeout(10):
            while not await removed(services, sessions[0].id):
                pass


async def test_few_ended_sessions_are_remembered(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of ten ends once, and none is lost, though only three are remembered."""
    monkeypatch.setattr(expiry, "MAX_ENDED", 3)
    async with open_services(config()) as services:
        reconciler, ending = services.reconciling.reconciler, services.reconciling.expiry
        sessions = [await submitted(services) for _ in range(10)]
        for each in sessions:
            await expire(services, each)
        since = await services.database.feed.cursor()

        async def failing(keys: Iterable[str]) -> list[str]:
            raise Unavailable

        with monkeypatch.context() as patch:
            patch.setattr(services.files, "delete", failing)
            for _ in range(3):
                await reconciler.maintain()
                assert len(ending._ended) == 3
        assert len((await services.database.feed.page(since)).tombstones) == 10
        ending._ended.clear()  # else each waits for its next try
        async with asyncio.timeout(30):
            while await services.database.reader.ids_among([each.id for each in sessions]):
                await reconciler.maintain()
        assert files(services) == []
        assert len((await services.database.feed.page(since)).tombstones) == 10


async def test_locked_session_is_left_to_a_later_pass(postgres_url: str, config: MakeConfig) -> None:
    """The expiry waits for no row that another transaction has locked."""
    async with open_services(config(database_url=postgres_url)) as services:
        held, free = await submitted(services), await submitted(services)
        for each in (held, free):
            await expire(services, each)
        async with services.database.connections.write() as connection:
            locking = select(tables.sessions.c.id).where(tables.sessions.c.id == held.id).with_for_update()
            await connection.execute(locking)
            await services.reconciling.reconciler.maintain()
            assert await services.database.reader.ids_among([held.id, free.id]) == {held.id}
        async with asyncio.timeout(10):
            while await services.database.reader.ids_among([held.id]):
                await services.reconciling.reconciler.maintain()


async def test_steps_shrink_while_others_cannot_write(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What both transactions of an expiry hold fits the size of their steps."""
    async with open_services(config()) as services:
        expiring = services.reconciling.expiry
        for _ in range(2):
            await expire(services, await submitted(services))
        held = property(lambda _: HELD_SECONDS * 2, lambda *_: None)
        monkeypatch.setattr(Connections, "turn_seconds", held, raising=False)
        await services.reconciling.reconciler.maintain()
        assert files(services) == []
        assert (expiring._ending_steps.items, expiring._removing_steps.items) == (FEWEST_ITEMS, FEWEST_ITEMS)


async def test_removal_delays_no_other_session(
    postgres_url: str, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim a living session while the transaction that removes others is open."""
    async with open_services(config(database_url=postgres_url)) as services:
        living, expired = await submitted(services), await submitted(services)
        await expire(services, expired)
        locked, release = asyncio.Event(), asyncio.Event()

        async def held(*_: Any) -> dict[str, str]:
            locked.set()
            await release.wait()
            return {}

        monkeypatch.setattr(writing, "add_cleanups", held)
        removing = asyncio.create_task(services.reconciling.reconciler.maintain())
        async with asyncio.timeout(10):
            await locked.wait()
            assert await services.database.writer.claim(living.id, worker="w", lease_seconds=60, actor="w")
        assert not removing.done()
        release.set()
        await removing
        assert await services.database.reader.ids_among([living.id, expired.id]) == {living.id}
