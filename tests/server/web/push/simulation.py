"""A seeded simulation of the delivery protocol in virtual time.

The hub, its followers and its chores are the product's own. Small models stand for the
database, Redis and the clients: every read takes a random time before and after its
snapshot, messages are lost, late or out of order, connections are lost, the database is
unavailable for a while, clients come, leave, sync and stop reading. Each seed is one
run that can be repeated exactly.

What is checked: every client is given each transition once and in order, and learns of
an erasure; a hole is filled at once while the database answers; the rest by the next
sweep; a place in the queue is announced to waiting sessions alone; an end counts as
delivered only if a client was given it; nothing is kept of clients that have left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, cast

from server.adapters.database.feed import Cursor, FeedPage
from server.adapters.database.reading import SessionWithEvents
from server.domain.bus_message import event_message, gone_message
from server.domain.queue_place import Waiting
from server.domain.session import AuditEvent, session_id_of
from server.domain.tokens import Signer
from server.web.push.hub import Hub
from testkit.virtual_time import VirtualClock, VirtualLoop, run_virtually
from tests.server.web.push.simulated_client import Client
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import TRANSITIONS, Event, GoneReason, Status

SESSIONS: Final = 3
CLIENTS: Final = 5
BUSY_SECONDS: Final = 12.0
QUIET_SECONDS: Final = 8.0
"""The last moves, up to 4 s, then a sweep and some reads."""

PAUSE_SECONDS: Final = 0.1
"""Maximum time of a message, and of a read before and after its snapshot."""

PROMPT_SECONDS: Final = 1.0
"""Maximum time to fill a hole while the database answers: two reads and more."""

AT: Final = datetime(2026, 11, 26, tzinfo=UTC)
SIGNER: Final = Signer(["a secret key of the simulation"])


class Chance(random.Random):
    """The source of all chance of one run."""

    bytes = random.Random.randbytes


class Subscriber:
    """The connection to Redis: deaf while it is down, and then restored."""

    def __init__(self, world: World, on_message: Callable[..., None], on_restored: Callable[[], None]) -> None:
        self.world, self.on_message, self.on_restored = world, on_message, on_restored
        self.up, self.connections = True, 1
        self.wanted: dict[bytes, asyncio.Future[None]] = {}
        self.active: set[bytes] = set()

    async def __aenter__(self) -> Subscriber:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.up = False

    def subscribe(self, channel: bytes) -> asyncio.Future[None]:
        if channel not in self.wanted:
            self.wanted[channel] = self.world.loop.create_future()
            self.world.later(self.confirm, channel, self.wanted[channel])
        return self.wanted[channel]

    def confirm(self, channel: bytes, future: asyncio.Future[None]) -> None:
        if self.up and self.wanted.get(channel) is future:
            self.active.add(channel)
        if not future.done():
            future.set_result(None)

    def unsubscribe(self, channel: bytes) -> None:
        future = self.wanted.pop(channel)
        self.active.discard(channel)
        if not future.done():
            future.set_result(None)

    def reconnect(self) -> None:
        self.up = False
        self.active.clear()
        self.world.later(self.restore)

    def restore(self) -> None:
        self.up, self.connections = True, self.connections + 1
        self.active.update(self.wanted)
        self.on_restored()


class World:
    """One run: the truth, the models, and what was violated."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.loop = loop
        self.chance = Chance(seed)
        self.faults = True
        self.away = False
        self.outages = 0
        """Times at which the database became unavailable."""
        self.stories: dict[str, list[AuditEvent]] = {}
        self.log: list[AuditEvent] = []
        self.tombstones: list[tuple[str, GoneReason]] = []
        self.erased: set[str] = set()
        self.given_end: set[str] = set()
        self.violations: list[str] = []
        self.clients: list[Client] = []
        self.places: dict[str, Waiting] = {}
        clock = VirtualClock(loop, wall_start=AT.timestamp())
        reader = SimpleNamespace(with_events=self.with_events, many_with_events=self.many_with_events, seqs=self.seqs)
        self.hub = Hub(
            config=cast(
                Any,
                SimpleNamespace(
                    ping_seconds=100.0, socket_seconds=1e6, sweep_seconds=4.0, retention_seconds=86400.0, key_prefix=""
                ),
            ),
            database=cast(
                Any,
                SimpleNamespace(
                    clock=SimpleNamespace(now=clock.wall),
                    writer=SimpleNamespace(note_delivered=self.note_delivered),
                    reader=reader,
                    feed=SimpleNamespace(cursor=self.cursor, page=self.page),
                ),
            ),
            bus=cast(Any, SimpleNamespace(channel=str, probe=self.probe)),
            sessions=cast(
                Any,
                SimpleNamespace(
                    queue_places=SimpleNamespace(current=self.current_places),
                    access=SimpleNamespace(issue=lambda: SimpleNamespace(file=str)),
                ),
            ),
            signer=SIGNER,
            clock=clock,
            randomness=self.chance,
            subscriber=cast(Any, self.make_subscriber),
        )

    def make_subscriber(self, **callbacks: Any) -> Subscriber:
        self.subscriber = Subscriber(self, **callbacks)
        return self.subscriber

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.loop.time():.2f}: {what}")

    def faulty(self, share: float) -> bool:
        return self.faults and self.chance.random() < share

    def later(self, call: Callable[..., object], *args: Any) -> None:
        self.loop.call_later(self.chance.uniform(0, PAUSE_SECONDS), call, *args)

    async def pause(self, seconds: float = PAUSE_SECONDS) -> None:
        await asyncio.sleep(self.chance.uniform(0, seconds))

    # -- the database ------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Take a snapshot in here: time passes before and after it."""
        await self.pause()
        if self.away:
            raise Unavailable
        yield
        await self.pause()

    def session(self, session_id: str) -> Any:
        last = self.stories[session_id][-1]
        return SimpleNamespace(id=session_id, seq=last.seq, status=last.status, delivered_at=None)

    def living(self, session_ids: Any) -> list[str]:
        return [each for each in session_ids if each not in self.erased]

    async def many_with_events(self, session_ids: Any, since: int) -> dict[str, SessionWithEvents]:
        async with self.reading():
            found = {
                each: SessionWithEvents(self.session(each), self.stories[each][since:])
                for each in self.living(session_ids)
            }
        return found

    async def with_events(self, session_id: str, since: int = 0) -> SessionWithEvents | None:
        return (await self.many_with_events([session_id], since)).get(session_id)

    async def seqs(self, session_ids: Any) -> dict[str, int]:
        async with self.reading():
            found = {each: len(self.stories[each]) for each in self.living(session_ids)}
        return found

    async def cursor(self) -> Cursor:
        async with self.reading():
            cursor = Cursor(len(self.log), len(self.tombstones))
        return cursor

    async def page(self, cursor: Cursor) -> FeedPage:
        """Return a page of a few rows, with some again as PostgreSQL does."""
        async with self.reading():
            again, most = self.chance.randint(0, 3), self.chance.randint(1, 5)
            end = min(len(self.log), cursor.event_position + most)
            page = FeedPage(
                self.log[max(0, cursor.event_position - again) : end],
                self.tombstones[max(0, cursor.tombstone_position - again) :],
                Cursor(end, len(self.tombstones)),
                more=end - cursor.event_position == most,
            )
        return page

    async def note_delivered(self, handed: dict[str, float]) -> dict[str, datetime]:
        if not self.given_end.issuperset(handed):
            self.violated("an end counts as delivered that no client was given")
        return {}

    async def outage(self) -> None:
        self.away, self.outages = True, self.outages + 1
        await self.pause(3)
        self.away = False

    # -- Redis -------------------------------------------------------------------------

    def publish(self, session_id: str, seq: int, message: bytes) -> None:
        if not self.faulty(0.3):
            self.later(self.deliver, session_id, seq, message)

    def deliver(self, session_id: str, seq: int, message: bytes) -> None:
        if self.subscriber.up and session_id.encode() in self.subscriber.active:
            self.subscriber.on_message(session_id.encode(), message)
            self.loop.call_later(
                PROMPT_SECONDS, self.was_prompt, session_id, seq, self.loop.time(), -1 if self.away else self.outages
            )

    def was_prompt(self, session_id: str, seq: int, at: float, outages: int) -> None:
        """Check that the clients of then have what a message told of."""
        if self.away or self.outages != outages or session_id in self.erased:
            return
        for client in self.clients:
            if client.session_id != session_id or client.over or client.seq is None:
                continue
            was_there = client.joined_at < at and 0 < client.released_at < at + PROMPT_SECONDS / 2
            if was_there and client.last < seq:
                self.violated(f"a hole before {seq} is still open")

    async def probe(self, channel: str, payload: bytes) -> int | None:
        if not self.subscriber.up:
            return None
        self.later(self.subscriber.on_message, channel.encode(), payload)
        return 1

    async def current_places(self) -> dict[str, Waiting]:
        """Return places as a queue that still holds the job of a running session."""
        waiting = self.hub.queue_news._waiting
        if not all(self.hub.registry.follows(each) for each in waiting):
            self.violated("a session without followers waits")
        await self.pause()
        position = itertools.count(self.chance.randint(1, 9))
        return {each: Waiting(next(position), None) for each in self.stories}

    # -- sessions and clients ----------------------------------------------------------

    def move(self, session_id: str, event: Event) -> None:
        """Commit a transition, then publish it."""
        story = self.stories.setdefault(session_id, [])
        before = story[-1].status if story else None
        moved = AuditEvent(
            session_id=session_id, seq=len(story) + 1, event=event, from_status=before,
            status=TRANSITIONS[before, event], at=AT, attempt=1, actor="simulation",
        )  # fmt: skip
        story.append(moved)
        self.log.append(moved)
        self.publish(session_id, moved.seq, event_message(moved, str))

    async def live(self, session_id: str) -> None:
        """Move a session at random to its end, and perhaps erase it."""
        while not (status := self.stories[session_id][-1].status).terminal and self.faults:
            await self.pause(self.chance.choice((0.05, 0.5, 4)))
            events = [event for before, event in TRANSITIONS if before is status]
            events += [event for event in events if event in (Event.PROCESSING, Event.REQUEUED)] * 4
            if self.chance.random() < 0.05:
                break
            self.move(session_id, self.chance.choice(events))
        if self.chance.random() < 0.5:
            await self.pause(1)
            self.erased.add(session_id)
            self.tombstones.append((SIGNER.tombstone_hash(session_id), GoneReason.DELETED))
            self.publish(session_id, 0, gone_message(GoneReason.DELETED))

    async def visit(self) -> None:
        """Follow sessions, one after the other, while the world is busy."""
        while self.faults:
            await self.pause(2)
            client = Client(self, self.chance.choice(list(self.stories)))
            self.clients.append(client)
            stays = self.chance.random() < 0.3
            try:
                await self.hub.confirmation(self.hub.join(client, transport="test"))
                await self.read(client)
                while not client.over and (stays or self.chance.random() < 0.7):
                    await self.pause(3)
                    if not client.over and not stays and self.chance.random() < 0.5:
                        await self.sync(client)
            except Unavailable:
                pass
            finally:
                client.leave()

    async def read(self, client: Client) -> None:
        found = await self.with_events(client.session_id)
        if found is None:
            client.leave()
        else:
            client.shown(found.session)

    async def sync(self, client: Client) -> None:
        """Ask for a new snapshot, as a client that woke up does, and perhaps leave."""
        before, client.seq = client.seq, None
        if self.faulty(0.2):
            self.later(client.leave)
        try:
            found = await self.with_events(client.session_id)
        except Unavailable:
            if before is not None:
                self.hub.resume(client, before)
                client.released_at = self.loop.time()
            return
        if found is None:
            client.leave()
        elif client in self.hub.registry:
            client.shown(found.session)

    async def disturb(self) -> None:
        while True:
            await self.pause(5)
            await self.chance.choice((self.outage, self.reconnect))()

    async def reconnect(self) -> None:
        self.subscriber.reconnect()

    # -- the run -----------------------------------------------------------------------

    async def run(self) -> list[str]:
        """Run, and return what was violated."""
        for _ in range(SESSIONS):
            self.move(session_id_of(AT.timestamp(), self.chance.randbytes(10)), Event.CREATED)
        async with self.hub.running():
            tasks = [asyncio.create_task(self.live(each)) for each in self.stories]
            tasks += [asyncio.create_task(self.visit()) for _ in range(CLIENTS)]
            disturbing = asyncio.create_task(self.disturb())
            await asyncio.sleep(BUSY_SECONDS)
            disturbing.cancel()
            self.faults = self.away = False
            await asyncio.sleep(QUIET_SECONDS)
            self.check_quiet()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.check_empty()
        return self.violations

    def check_quiet(self) -> None:
        """Check that each client that stayed knows the truth."""
        waiting = set()
        for client in self.clients:
            if client.over or client.seq is None:
                continue
            session = self.session(client.session_id)
            if client.session_id in self.erased or client.last != session.seq or session.status.terminal:
                self.violated(f"a client knows {client.last} of {session.seq}")
            if session.status is Status.CREATED:
                waiting.add(session.id)
        if not waiting <= set(self.hub.queue_news._waiting):
            self.violated("a waiting session has no place")

    def check_empty(self) -> None:
        """Check that nothing is left of clients that have left."""
        hub = self.hub
        kept = (
            hub.registry.by_channel, hub.registry._erasable, hub.queue_news._waiting, hub.recovery._holes,
            set(self.subscriber.wanted) - {hub.probe.channel}, *hub.pings._slots,
        )  # fmt: skip
        if any(kept):
            self.violated(f"left over: {[each for each in kept if each]}")


def simulate(seed: int) -> list[str]:
    """Return what one run violated."""
    loop = VirtualLoop()

    async def run() -> list[str]:
        return await World(seed, loop).run()

    return run_virtually(run(), loop)
