"""A seeded simulation of the delivery protocol in virtual time.

The hub, its followers and its chores are the product's own. Small models stand for the
database, Redis and the clients: every read takes a random time before and after its
snapshot, messages are lost, late or out of order, connections are lost, the database is
unavailable for a while, clients come, leave, sync and stop reading. Each seed is one
run that can be repeated exactly, in any process.

A run draws its :class:`Scenario` first: how many sessions and clients there are, how
long a read takes, what goes wrong at all. A mixture of everything in each run would
hide most bugs: an outage excuses a hole, and a sweep after a reconnect fills it; a
session with many followers never loses its last one. The hub has a source of chance of
its own, so that a change of the product leaves the scenario of a seed as it was.

What is checked: every client is given each transition once and in order, and learns of
an erasure; a hole is filled at once while the database answers; the rest by the next
sweep; a place in the queue is announced to waiting sessions alone; an end counts as
delivered only if a client was given it; nothing is kept of clients that have left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, cast

from server.adapters.database.feed import Cursor, FeedPage, Follows
from server.adapters.database.reading import SessionWithEvents
from server.domain.bus_message import event_message, gone_message
from server.domain.queue_place import Waiting
from server.domain.session import AuditEvent, session_id_of
from server.domain.tokens import Signer
from server.web.push.hub import Hub
from testkit.virtual_time import VirtualClock, VirtualLoop, run_virtually
from tests.server.web.push.scenario import Chance, Scenario
from tests.server.web.push.simulated_client import Client
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import TRANSITIONS, Event, GoneReason, Status

BUSY_SECONDS: Final = 12.0
QUIET_SECONDS: Final = 8.0
"""The last moves, up to 4 s, then a sweep and some reads."""

MESSAGE_SECONDS: Final = 0.1
"""Maximum time of a message."""

AT: Final = datetime(2026, 11, 26, tzinfo=UTC)
SIGNER: Final = Signer(["a secret key of the simulation"])


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
        self.scenario = Scenario.of(self.chance)
        self.faults = True
        self.away = False
        self.outages = 0
        """Times at which the database became unavailable."""
        self.stories: dict[str, list[AuditEvent]] = {}
        self.log: list[AuditEvent] = []
        self.tombstones: list[tuple[str, GoneReason]] = []
        self.erased: set[str] = set()
        self.given_end: set[str] = set()
        self.heard: dict[str, int] = {}
        """The newest transition of each session that a message told this process."""
        self.violations: list[str] = []
        self.trace: list[str] = []
        """What the clients were given, and when."""
        self.clients: list[Client] = []
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
            bus=cast(Any, SimpleNamespace(channel=str, owner_channel="owner:{}".format, probe=self.probe)),
            sessions=cast(
                Any,
                SimpleNamespace(
                    queue_places=SimpleNamespace(current=self.current_places),
                    access=SimpleNamespace(issue=lambda: SimpleNamespace(file=str)),
                ),
            ),
            signer=SIGNER,
            clock=clock,
            randomness=Chance(seed),
            subscriber=cast(Any, self.make_subscriber),
        )

    def make_subscriber(self, **callbacks: Any) -> Subscriber:
        self.subscriber = Subscriber(self, **callbacks)
        return self.subscriber

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.loop.time():.2f}: {what}")

    def given(self, client: Client, what: str) -> None:
        self.trace.append(f"{self.loop.time()!r} {client.number} {what}")

    def faulty(self, share: float) -> bool:
        return self.faults and self.chance.random() < share

    def later(self, call: Callable[..., object], *args: Any) -> None:
        self.loop.call_later(self.chance.uniform(0, MESSAGE_SECONDS), call, *args)

    async def pause(self, seconds: float) -> None:
        """Let time pass; one pause of eight is one turn of the loop."""
        await asyncio.sleep(max(0.0, self.chance.uniform(-seconds / 7, seconds)))

    # -- the database ------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Take a snapshot in here: time passes before and after it."""
        await self.pause(self.scenario.read_seconds)
        if self.away:
            raise Unavailable
        yield
        await self.pause(self.scenario.read_seconds)

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

    async def page(self, cursor: Cursor, *, follows: Follows | None = None) -> FeedPage:
        """Return a page of a few rows, with some again as PostgreSQL does."""
        async with self.reading():
            again, most = self.chance.randint(0, 3), self.chance.choice((2, 8, 50))
            end = min(len(self.log), cursor.event_position + most)
            events = self.log[max(0, cursor.event_position - again) : end]
            page = FeedPage(
                [event for event in events if follows is None or follows(event.session_id)],
                [event.session_id for event in events if event.seq == 1],
                self.tombstones[max(0, cursor.tombstone_position - again) :],
                Cursor(end, len(self.tombstones)),
                more=end - cursor.event_position == most,
            )
        return page

    async def note_delivered(self, handed: dict[str, float]) -> dict[str, datetime]:
        if not self.given_end.issuperset(self.living(handed)):
            self.violated("an end counts as delivered that no client was given")
        return {}

    async def outage(self) -> None:
        self.away, self.outages = True, self.outages + 1
        await self.pause(3)
        self.away = False

    async def disturb(self) -> None:
        while self.scenario.outages:
            await self.pause(5)
            if self.chance.choice(self.scenario.outages) == "database":
                await self.outage()
            else:
                self.subscriber.reconnect()

    # -- Redis -------------------------------------------------------------------------

    def publish(self, session_id: str, seq: int, message: bytes) -> None:
        if not self.faulty(self.scenario.lost):
            self.later(self.deliver, session_id, seq, message)

    def deliver(self, session_id: str, seq: int, message: bytes) -> None:
        if self.subscriber.up and session_id.encode() in self.subscriber.active:
            self.subscriber.on_message(session_id.encode(), message)
            self.heard[session_id] = max(seq, self.heard.get(session_id, 0))
            for client in self.clients:
                if client.session_id == session_id:
                    self.expect_prompt(client)

    def expect_prompt(self, client: Client) -> None:
        """Expect that a client will soon have what messages have told this process.

        One that is not released yet, will be expected to when it is.
        """
        heard = self.heard.get(client.session_id, 0)
        if client.seq is not None and not client.over and client.last < heard and not self.away:
            self.loop.call_later(self.scenario.prompt_seconds, self.check_prompt, client, heard, self.outages)

    def check_prompt(self, client: Client, seq: int, outages: int) -> None:
        if client.over or client.seq is None or client.session_id in self.erased or self.outages != outages:
            return
        if client.last < seq:
            self.violated(f"a hole before {seq} is still open")

    async def probe(self, channel: str, payload: bytes) -> int | None:
        if not self.subscriber.up:
            return None
        self.later(self.subscriber.on_message, channel.encode(), payload)
        return 1

    async def current_places(self) -> dict[str, Waiting]:
        """Return places as a queue that still holds the job of a running session."""
        await self.pause(self.scenario.read_seconds)
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

    async def live(self) -> None:
        """Begin a session, move it at random to its end or erase it; then the next."""
        while self.faults:
            session_id = session_id_of(AT.timestamp(), self.chance.randbytes(10))
            self.move(session_id, Event.CREATED)
            await self.move_on(session_id)
            await self.pause(1)
            if self.chance.random() < 0.5:
                self.erase(session_id)

    async def move_on(self, session_id: str) -> None:
        while not (status := self.stories[session_id][-1].status).terminal and self.faults:
            await self.pause(self.chance.choice(self.scenario.move_seconds))
            if self.chance.random() < self.scenario.erased:
                return self.erase(session_id)
            events = [event for before, event in TRANSITIONS if before is status]
            going_on: list[Event] = [event for event in events if event in (Event.PROCESSING, Event.REQUEUED)]
            self.move(session_id, self.chance.choice(events + going_on * self.scenario.lasting))

    def erase(self, session_id: str) -> None:
        if session_id not in self.erased:
            self.erased.add(session_id)
            self.tombstones.append((SIGNER.tombstone_hash(session_id), GoneReason.DELETED))
            self.publish(session_id, 0, gone_message(GoneReason.DELETED))

    async def visit(self) -> None:
        """Follow sessions, one after the other, while the world is busy."""
        while self.faults:
            await self.pause(1)
            newest = list(self.stories)[-self.scenario.sessions - 1 :]
            client = Client(self, self.chance.choice(newest))
            self.clients.append(client)
            stays = self.chance.random() < 0.3
            try:
                await self.hub.confirmation(self.hub.join(client, transport="test"))
                await self.read(client)
                while not client.over and (stays or self.chance.random() < 0.7):
                    await self.pause(2)
                    if not client.over and not stays and self.chance.random() < 0.5:
                        await self.sync(client)
            except Unavailable:
                pass
            finally:
                client.leave()

    async def read(self, client: Client) -> None:
        """Show the session to a client, which may leave while it is read."""
        if self.faulty(0.2):
            self.later(client.leave)
        found = await self.with_events(client.session_id)
        await self.pause(self.scenario.show_seconds)
        if found is None:
            client.leave()
        elif client in self.hub.registry:
            client.shown(found.session)

    async def sync(self, client: Client) -> None:
        """Ask for a new snapshot, as a client that woke up does."""
        before, client.seq = client.seq, None
        try:
            await self.read(client)
        except Unavailable:
            if before is not None:
                self.hub.resume(client, before)
                self.expect_prompt(client)

    # -- the run -----------------------------------------------------------------------

    async def run(self) -> list[str]:
        """Run, and return what was violated."""
        async with self.hub.running():
            tasks = [asyncio.create_task(self.live()) for _ in range(self.scenario.sessions)]
            tasks += [asyncio.create_task(self.visit()) for _ in range(self.scenario.clients)]
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

    def check_turn(self) -> None:
        """Check what must hold whenever no callback runs."""
        if not all(map(self.hub.registry.follows, self.hub.queue_news._waiting)):
            self.violated("a session without followers waits")

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


def run_scenario(seed: int) -> World:
    """Run one scenario to its end."""
    world: World | None = None

    def check_turn() -> None:
        if world is not None:
            world.check_turn()

    loop = VirtualLoop(between=check_turn)

    async def run() -> None:
        nonlocal world
        world = World(seed, loop)
        await world.run()

    run_virtually(run(), loop)
    assert world is not None
    return world


def simulate(seed: int) -> list[str]:
    """Return what one run violated."""
    return run_scenario(seed).violations
