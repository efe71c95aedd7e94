"""All sessions of an owner on one line: the bound, announcements, outages, recovery."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import update

from server.adapters.database import tables
from server.domain.bus_message import gone_message
from server.domain.owner_cursor import read_cursor
from server.domain.session import Session, session_id_of
from server.services import Services, open_services
from server.web.push.hub import Hub
from server.web.push.member import Line
from server.web.push.watch import Watch
from testkit.fixtures import StartValkey
from testkit.running import new_session, until
from tests.server.web.push.kit import MakeConfig, make_hub, message, move, without_sweeps
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Event, GoneReason

OWNER = "0" * 64


class Screen(Line):
    """A line that records its frames; it reads when the test says so."""

    def __init__(self) -> None:
        super().__init__("")
        self.frames: list[dict[str, Any]] = []
        self.cursors: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.asked = asyncio.Event()
        """Set once the watch waits for the client to read."""
        self.watch: Watch

    def put(self, frame: bytes) -> None:
        self.frames.append(json.loads(frame))

    def transition(self, session_id: str, frame: bytes, cursor: Callable[[], str]) -> None:
        self.put(frame)
        self.cursors.append(cursor())

    def latest(self, session_id: str, frame: bytes) -> None:
        self.put(frame)

    @property
    def lost(self) -> bool:
        return False

    async def taken(self) -> None:
        if not self.reads.is_set():
            self.asked.set()
        await self.reads.wait()

    def event(self, frame: bytes) -> None: ...
    def progress(self, frame: bytes) -> None: ...
    def ping(self, frame: bytes) -> None: ...
    def end(self, status: str) -> None: ...
    def gone(self, reason: GoneReason) -> None: ...
    def too_old(self, retry_after_ms: int) -> None: ...
    def drain(self, retry_after_ms: int) -> None: ...

    def told(self) -> list[tuple[str, str | int]]:
        """Return each frame of a session: its id, and its seq or the reason."""
        found: list[tuple[str, str | int]] = []
        for frame in self.frames:
            if frame["type"] == "snapshot":
                found.append((frame["session"]["session_id"], frame["session"]["seq"]))
            elif frame["type"] == "event":
                found.append((frame["session_id"], frame["seq"]))
            elif frame["type"] == "ended":
                found.append((frame["session_id"], frame["reason"]))
        return found

    def synced(self) -> list[tuple[int, bool]]:
        return [(frame["sessions"], frame["more"]) for frame in self.frames if frame["type"] == "synced"]


@contextlib.asynccontextmanager
async def watched(services: Services, hub: Hub, *, most: int = 200, **seqs: Any) -> AsyncIterator[Screen]:
    """Yield the line of a watch that has joined and runs."""
    screen = Screen()
    watch = Watch(
        OWNER,
        screen,
        hub=hub,
        reads=services.sessions.reads,
        database_clock=services.database.clock,
        ping_seconds=25,
        most=most,
    )
    screen.watch = watch
    if not seqs.get("reads", True):
        screen.reads.clear()
    await hub.confirmation(hub.owners.add(watch, transport="test"))
    for session_id in seqs.get("announced", ()):
        watch.announce(session_id)
    await watch.join(seqs.get("seqs"))
    running = asyncio.create_task(watch.run())
    try:
        await until(lambda: screen.seq == 0 or running.done() or not screen.reads.is_set())
        yield screen
    finally:
        watch.close()
        hub.owners.remove(watch, transport="test")
        await running
    assert not hub.registry.by_channel


async def insert(services: Services) -> Session:
    return await services.database.writer.insert(new_session(owner=OWNER))


async def step(services: Services, session: Session, event: Event) -> Session:
    """Commit and publish one transition."""
    moved = await move(services, session, event)
    await services.bus.publish(session.id, message(services, moved.event))
    return moved.session


async def test_newest_are_followed_and_the_rest_takes_their_place(hub: Hub, services: Services) -> None:
    """`synced` says that there are more; each end makes room for one."""
    sessions = [await insert(services) for _ in range(4)]
    async with watched(services, hub, most=2) as screen:
        assert screen.synced() == [(2, True)]
        first = {name for name, _ in screen.told()}
        assert len(first) == 2
        for session in [each for each in sessions if each.id in first]:
            await step(services, await step(services, session, Event.PROCESSING), Event.COMPLETED)
        await until(lambda: {name for name, _ in screen.told()} == {session.id for session in sessions})
        await until(lambda: screen.synced()[-1][1] is False)


async def test_new_session_beyond_the_bound_waits_for_room(hub: Hub, services: Services) -> None:
    """Its announcement is answered with `synced`, and its snapshot comes later."""
    session = await insert(services)
    async with watched(services, hub, most=1) as screen:
        assert screen.synced() == [(1, False)]
        later = await insert(services)
        await services.bus.announce(OWNER, later.id)
        await until(lambda: screen.synced()[-1] == (1, True))
        await step(services, session, Event.CANCELLED)
        await until(lambda: (later.id, 1) in screen.told())


async def test_sweep_finds_a_session_that_was_not_announced(hub: Hub, services: Services) -> None:
    """Redis has lost the message; a second finding changes nothing."""
    async with watched(services, hub) as screen:
        session = await insert(services)
        hub.recovery._sweep_wanted.set()
        await until(lambda: screen.told() == [(session.id, 1)])
        await services.bus.announce(OWNER, session.id)
        await hub.owners.check_all()
        await step(services, session, Event.PROCESSING)
        await until(lambda: screen.told() == [(session.id, 1), (session.id, 2)])


async def test_session_that_ended_before_is_not_shown_by_the_sweep(hub: Hub, services: Services) -> None:
    """It ended before the client connected, but its `created` is still to be swept."""
    session = await insert(services)
    await move(services, session, Event.CANCELLED)
    async with watched(services, hub) as screen:
        hub.recovery._sweep_wanted.set()
        other = await insert(services)
        await hub.owners.created([session.id, other.id])
        await until(lambda: screen.told() == [(other.id, 1)])


async def test_end_that_the_client_has_seen_is_named_only(hub: Hub, services: Services) -> None:
    """No snapshot, even if a late message names the session while the client joins."""
    session = await insert(services)
    session = (await move(services, session, Event.CANCELLED)).session
    for announced in ((), (session.id,)):
        async with watched(services, hub, seqs={session.id: session.seq}, announced=announced) as screen:
            assert screen.told() == [(session.id, "cancelled")]


async def test_session_that_begins_and_ends_unseen_is_shown(hub: Hub, services: Services) -> None:
    """Between two sweeps: its snapshot holds all events, then it is `ended`."""
    async with watched(services, hub) as screen:
        session = await insert(services)
        await move(services, session, Event.CANCELLED)
        hub.recovery._sweep_wanted.set()
        await until(lambda: screen.told() == [(session.id, 2), (session.id, "cancelled")])
        (snapshot,) = [frame for frame in screen.frames if frame["type"] == "snapshot"]
        assert [event["event"] for event in snapshot["missed"]] == ["created", "cancelled"]


async def test_session_of_an_absence_is_shown_once(hub: Hub, services: Services) -> None:
    """It began and ended while the client was away; the next cursor names it."""
    living = await insert(services)
    missed = await insert(services)
    await move(services, missed, Event.CANCELLED)
    async with watched(services, hub, seqs={living.id: 1}) as screen:
        assert screen.told() == [(living.id, 1), (missed.id, 2), (missed.id, "cancelled")]
        snapshot = screen.frames[1]
        assert [event["event"] for event in snapshot["missed"]] == ["created", "cancelled"]
        await hub.owners.created([missed.id])
        cursor = read_cursor(screen.cursors[-1])
    assert cursor == {living.id: 1, missed.id: 2}
    async with watched(services, hub, seqs=cursor) as screen:
        assert screen.told() == [(living.id, 1), (missed.id, "cancelled")]


async def test_long_absence_hides_no_session(hub: Hub, services: Services) -> None:
    """As long as the cursor is old, whatever the sweep may still announce."""
    seen = session_id_of(services.database.clock.now() - 600, bytes(10))
    missed = await insert(services)
    await move(services, missed, Event.CANCELLED)
    async with services.database.connections.write() as connection:
        await connection.execute(update(tables.sessions).values(created_at=tables.database_time(-500.0)))
    async with watched(services, hub, seqs={seen: 1}) as screen:
        assert screen.told() == [(seen, "deleted"), (missed.id, 2), (missed.id, "cancelled")]


async def test_end_that_was_followed_is_not_shown_again(hub: Hub, services: Services) -> None:
    """The newest session stays in the cursor after its end, so it counts as seen."""
    living = await insert(services)
    ending = await insert(services)
    async with watched(services, hub) as screen:
        await step(services, await step(services, ending, Event.PROCESSING), Event.COMPLETED)
        await until(lambda: (ending.id, "completed") in screen.told())
        cursor = read_cursor(screen.cursors[-1])
    assert cursor == {living.id: 1, ending.id: 3}
    async with watched(services, hub, seqs=cursor) as screen:
        assert screen.told() == [(living.id, 1), (ending.id, "completed")]
        newer = await insert(services)
        await hub.owners.created([newer.id])
        await until(lambda: (newer.id, 1) in screen.told())
        assert read_cursor(screen.cursors[-1]) == {living.id: 1, newer.id: 1}


async def test_sync_hides_no_session_that_was_not_announced(hub: Hub, services: Services) -> None:
    """It ends before the sweep finds it, and the client asks for all in between."""
    living = await insert(services)
    async with watched(services, hub) as screen:
        missed = await insert(services)
        await move(services, missed, Event.CANCELLED)
        screen.watch.sync({living.id: 1})
        await until(lambda: len(screen.synced()) == 2)
        await hub.owners.created([missed.id])
        await until(lambda: (missed.id, "cancelled") in screen.told())


async def test_end_before_an_erasure_is_the_only_one(hub: Hub, services: Services) -> None:
    """Both are held while its snapshot waits for the client to read."""
    async with watched(services, hub) as screen:
        session = await insert(services)
        screen.reads.clear()
        await hub.owners.created([session.id])
        await screen.asked.wait()
        end = (await move(services, session, Event.CANCELLED)).event
        for held in (message(services, end), gone_message(GoneReason.DELETED)):
            hub.receive(hub.registry.channel(session.id), held)
        screen.reads.set()
        await until(lambda: (session.id, "cancelled") in screen.told())
        assert screen.told() == [(session.id, 1), (session.id, 2), (session.id, "cancelled")]


async def test_session_is_shown_as_it_was_read_last(hub: Hub, services: Services) -> None:
    """It lies beyond the bound, and is announced while its first reading waits."""
    first = await insert(services)
    newer = await insert(services)
    seqs = {first.id: 1, newer.id: 1}
    async with watched(services, hub, most=1, seqs=seqs, reads=False) as screen:
        await screen.asked.wait()
        screen.watch.ended(newer.id, "deleted", 1)
        screen.watch.announce(first.id)
        await step(services, first, Event.PROCESSING)
        screen.reads.set()
        await until(lambda: screen.synced() != [])
        assert screen.told() == [(newer.id, "deleted"), (first.id, 2)]


async def test_nothing_is_followed_after_the_client_has_left(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves while the list is read to fill the place of an ended session."""
    session, other = await insert(services), await insert(services)
    living, asked, answers = services.sessions.reads.living, asyncio.Event(), asyncio.Event()

    async def waits(*args: Any, **options: Any) -> Any:
        asked.set()
        await answers.wait()
        return await living(*args, **options)

    async with watched(services, hub, most=1) as screen:
        monkeypatch.setattr(services.sessions.reads, "living", waits)
        await step(services, other, Event.CANCELLED)
        await asked.wait()
        screen.watch.close()
        answers.set()
    assert not hub.registry.follows(session.id)


async def test_events_wait_for_a_client_that_does_not_read(hub: Hub, services: Services) -> None:
    """The snapshot is the one that was read; what came later follows it."""
    session = await insert(services)
    async with watched(services, hub) as screen:
        later = await insert(services)
        screen.reads.clear()
        await services.bus.announce(OWNER, later.id)
        await until(lambda: hub.registry.follows(later.id))
        await step(services, await step(services, later, Event.PROCESSING), Event.COMPLETED)
        await step(services, session, Event.PROCESSING)
        await until(lambda: (session.id, 2) in screen.told())
        screen.reads.set()
        await until(lambda: (later.id, "completed") in screen.told())
        seqs = [seq for name, seq in screen.told() if name == later.id]
        assert seqs in ([1, 2, 3, "completed"], [2, 3, "completed"], [3, "completed"])


async def test_new_session_is_read_again_after_an_outage(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database fails while it is read; nothing is lost, nothing is told twice."""
    read, failing = services.sessions.reads.read, [2]

    async def fails(*args: Any, **options: Any) -> Any:
        if failing[0]:
            failing[0] -= 1
            raise Unavailable
        return await read(*args, **options)

    async with watched(services, hub) as screen:
        monkeypatch.setattr(services.sessions.reads, "read", fails)
        session = await insert(services)
        await services.bus.announce(OWNER, session.id)
        await until(lambda: screen.told() == [(session.id, 1)])


async def test_watch_goes_on_without_redis(config: MakeConfig, start_valkey: StartValkey) -> None:
    """While Redis is down the sweep brings new sessions, events and ends."""
    valkey = start_valkey()
    async with open_services(config(redis_url=valkey.url, sweep_seconds=60.0)) as services:
        hub = make_hub(services)
        async with hub.running():
            await without_sweeps(hub)
            session = await insert(services)
            async with watched(services, hub) as screen:
                valkey.kill()
                await until(lambda: not hub.delivers)
                other = await insert(services)
                await step(services, session, Event.PROCESSING)
                await step(services, other, Event.CANCELLED)
                await until(lambda: len(screen.told()) == 4, seconds=20)
                assert [word for name, word in screen.told() if name == session.id] == [1, 2]
                assert [word for name, word in screen.told() if name == other.id] == [2, "cancelled"]
