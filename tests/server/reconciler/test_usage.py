"""Usage events: one for each session, however it ends, until it is accepted."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sys
from typing import Any

import pytest
from sqlalchemy import select, update

from server.adapters.database import tables
from server.adapters.database.usage_events import Untold, UsageOutbox
from server.domain.session import Session
from server.domain.usage_events import event_id
from server.reconciler import usage
from server.services import Services
from testkit.processes import spawn
from testkit.receivers import Receiver
from testkit.running import PHOTO
from tests.server.reconciler.conftest import SECRETS, MakeConfig, Process, calling
from tests.server.reconciler.test_webhooks import secret, verifier
from tests.server.sessions.conftest import MINE, begin, submit
from tryon.protocol.errors import NotFound, Unavailable

BUSY = b"HTTP/1.1 503 Busy\r\n\r\n"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(usage, "pause_seconds", lambda attempts: 0.0)
    monkeypatch.setattr(usage, "SEND_SECONDS", 0.05)


@pytest.fixture
def process(config: MakeConfig, database_url: str, receiver: Receiver) -> Process:
    """Open the parts of a process that tells the receiver, on every database."""
    return calling(config, "usage_webhook_url", receiver)


async def told(services: Services, receiver: Receiver) -> list[dict[str, Any]]:
    """Send what is due; return the data of all events that were received."""
    await services.reconciling.usage.deliver()
    return [each.message["data"] for each in receiver.received]


async def kept(services: Services) -> int:
    """Return how many events wait for the receiver."""
    async with services.database.connections.read() as connection:
        return len((await connection.execute(select(tables.usage_events.c.id))).all())


async def expire(services: Services, session: Session) -> None:
    """Let a session's time be over, and erase it."""
    async with services.database.connections.write() as connection:
        await connection.execute(
            update(tables.sessions)
            .where(tables.sessions.c.id == session.id)
            .values(expires_at=tables.database_time(-1.0))
        )
    await services.reconciling.reconciler.maintain()


async def test_completed_session_is_told_once_and_signed(process: Process, receiver: Receiver) -> None:
    """With units, bytes and times; the row goes when it was accepted."""
    async with process() as services:
        session = await submit(services)
        claim = await begin(services, session)
        services.sessions.claims.note_usage(claim, {"credits": 2.5})
        assert await services.sessions.claims.complete(claim, [PHOTO])
        [event] = await told(services, receiver)
        assert (event["id"], event["session_id"], event["owner"]) == (event_id(session.id), session.id, session.owner)
        assert (event["status"], event["attempts"], event["usage"]) == ("completed", 1, {"credits": 2.5})
        assert event["bytes"] == 2 * len(PHOTO.data)
        assert event["created_at"] <= event["started_at"] <= event["ended_at"]
        verifier()(receiver.received[0].headers, receiver.received[0].body, secret(SECRETS[0]))
        assert receiver.received[0].headers["webhook-id"] == event["id"]
        await services.sessions.erasure.delete(session.id, MINE.owner)
        assert len(await told(services, receiver)) == 1
        assert await kept(services) == 0


async def test_session_is_told_however_it_ends(process: Process, receiver: Receiver) -> None:
    """Failed, cancelled, timed out, deleted and expired while it runs or waits."""
    async with process(deadline_seconds=0.1) as services:
        failed, cancelled, late, deleted, expired = [await submit(services) for _ in range(5)]
        assert len({each.id for each in (failed, cancelled, late, deleted, expired)}) == 5
        await services.sessions.cancelling.cancel(cancelled.id, MINE.owner)
        async with services.database.connections.write() as connection:
            moved = update(tables.sessions).where(tables.sessions.c.id.in_([failed.id, deleted.id, expired.id]))
            await connection.execute(moved.values(deadline_at=tables.database_time(60.0)))
        assert await services.sessions.claims.fail(await begin(services, failed), "mock_failure")
        claim = await begin(services, deleted)
        await services.sessions.erasure.delete(deleted.id, MINE.owner)
        with contextlib.suppress(NotFound):
            await services.sessions.claims.fail(claim, "mock_failure")
        await begin(services, expired)
        await expire(services, expired)
        async with asyncio.timeout(20):
            while len(receiver.received) < 5:
                await services.reconciling.reconciler.maintain()
                await told(services, receiver)
        found = {each["session_id"]: (each["status"], each["error"]) for each in await told(services, receiver)}
        assert found == {
            failed.id: ("failed", "mock_failure"),
            cancelled.id: ("cancelled", None),
            late.id: ("failed", "timeout"),
            deleted.id: ("deleted", None),
            expired.id: ("expired", None),
        }
        assert len(receiver.received) == 5


async def test_erased_attempt_counts_as_far_as_it_was_saved(process: Process, receiver: Receiver) -> None:
    """Deleted and expired while they run: what the checkpoint says was used."""
    async with process() as services:
        claims = services.sessions.claims
        for word in ("deleted", "expired"):
            session = await submit(services)
            claims.note_usage(first := await begin(services, session), {"credits": 1.0})
            assert await claims.requeue(first, burnt=False, reason="drained")
            claim = await begin(services, session, "w2")
            claims.note_usage(claim, {"credits": 2.0, "gpu_seconds": 3.0})
            assert await claims.checkpoint(claim, {"id": "upstream"})
            if word == "deleted":
                await services.sessions.erasure.delete(session.id, MINE.owner)
            else:
                await expire(services, session)
        found = {each["status"]: each["usage"] for each in await told(services, receiver)}
        used = {"credits": 3.0, "gpu_seconds": 3.0}
        assert found == {"deleted": used, "expired": used}


async def test_lost_attempts_count(process: Process, receiver: Receiver) -> None:
    """A worker that died has held the session, too."""
    async with process() as services:
        session = await submit(services)
        claim = await begin(services, session)
        async with services.database.connections.write() as connection:
            lapsed = update(tables.sessions).values(lease_expires_at=tables.database_time(-1.0))
            await connection.execute(lapsed.where(tables.sessions.c.id == session.id))
        await services.sessions.requeueing.take_back([await row_of(services, session)])
        assert not await services.sessions.claims.complete(claim, [PHOTO])
        assert await services.sessions.claims.complete(await begin(services, session, "w2"), [PHOTO])
        [event] = await told(services, receiver)
        assert event["attempts"] == 2


async def row_of(services: Services, session: Session) -> Session:
    found = await services.database.reader.get(session.id)
    assert found is not None
    return found


async def test_event_waits_for_its_receiver(process: Process, receiver: Receiver) -> None:
    """The same id in each attempt, by any process; at the end it is given up."""
    receiver.answers[:] = [BUSY, b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", b"nonsense\r\n"]
    async with process() as services:
        session = await submit(services)
        await services.sessions.cancelling.cancel(session.id, MINE.owner)
        await services.sessions.erasure.delete(session.id, MINE.owner)
        await told(services, receiver)
        assert await kept(services) == 1
    async with process() as services, asyncio.timeout(20):
        while len(receiver.received) < 4:
            await services.reconciling.usage.deliver()
        await services.reconciling.usage.deliver()
        assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
        assert await kept(services) == 0
        receiver.usual = BUSY
        await services.sessions.cancelling.cancel((await submit(services)).id, MINE.owner)
        await told(services, receiver)
        assert await kept(services) == 1
        async with services.database.connections.write() as connection:
            old = update(tables.usage_events).values(created_at=tables.database_time(-8 * 86400.0))
            await connection.execute(old)
        await services.reconciling.usage.deliver()
        assert await kept(services) == 0


async def test_outage_lets_the_other_events_be_sent(
    process: Process, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database fails for one of several; the call waits for the rest."""
    async with process() as services:
        ids = [(await submit(services)).id for _ in range(4)]
        for session_id in ids:
            await services.sessions.cancelling.cancel(session_id, MINE.owner)
        outbox, begin, seen = services.reconciling.usage._outbox, UsageOutbox.begin, list[str]()

        async def fails(event: Untold, *, pause_seconds: float) -> bool:
            seen.append(event.id)
            if len(seen) == 2:
                raise Unavailable
            return await begin(outbox, event, pause_seconds=pause_seconds)

        monkeypatch.setattr(outbox, "begin", fails)
        with pytest.raises(Unavailable):
            await services.reconciling.usage.deliver()
        assert len(receiver.received) == 3
        assert await kept(services) == 1


END_AND_WAIT = """
import asyncio, pickle, sys
from server.services import open_services
from tests.server.reconciler.test_usage import PHOTO, begin, submit

async def end() -> None:
    async with open_services(pickle.loads(bytes.fromhex(sys.argv[1]))) as services:
        session = await submit(services)
        assert await services.sessions.claims.complete(await begin(services, session), [PHOTO])
        print(session.id, flush=True)
        await asyncio.Event().wait()

asyncio.run(end())
"""


async def test_event_survives_kill_between_end_and_sending(
    process: Process, config: MakeConfig, receiver: Receiver
) -> None:
    """The process that ended the session is gone with all it knew; another tells."""
    settings = config(usage_webhook_url=receiver.url, webhook_secrets=SECRETS, webhook_private=True)
    ending = await spawn(sys.executable, "-c", END_AND_WAIT, pickle.dumps(settings).hex(), piped=True)
    try:
        assert ending.stdout is not None
        async with asyncio.timeout(60):
            session_id = (await ending.stdout.readline()).decode().strip()
    finally:
        ending.kill()
        await ending.wait()
    assert receiver.received == []
    async with process() as services:
        assert await kept(services) == 1
        [event] = await told(services, receiver)
        assert (event["session_id"], event["status"]) == (session_id, "completed")


async def test_no_event_is_kept_without_a_receiver(process: Process, receiver: Receiver) -> None:
    """Nothing of a session outlives it then."""
    async with process(usage_webhook_url=None) as services:
        await services.sessions.cancelling.cancel((await submit(services)).id, MINE.owner)
        assert await told(services, receiver) == []
        assert await kept(services) == 0


async def test_event_is_dropped_in_time_when_its_receiver_is_removed(process: Process, receiver: Receiver) -> None:
    """What was promised to go goes, also after the setting is gone."""
    receiver.usual = BUSY
    async with process() as services:
        await services.sessions.cancelling.cancel((await submit(services)).id, MINE.owner)
        await told(services, receiver)
    async with process(usage_webhook_url=None) as services:
        await services.reconciling.usage.deliver()
        assert await kept(services) == 1
        async with services.database.connections.write() as connection:
            await connection.execute(update(tables.usage_events).values(created_at=tables.database_time(-8 * 86400.0)))
        await services.reconciling.usage.deliver()
        assert await kept(services) == 0
