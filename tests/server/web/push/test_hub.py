"""No gap, no repeat, no step back: the hub under every order of joining, committing and
publishing, and without Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.adapters.database.changes import Change, Moved
from server.adapters.database.reading import SessionWithEvents
from server.adapters.redis.subscriber import RedisSubscriber
from server.config.settings import Config
from server.domain.bus_message import EVENT, PROGRESS, TERMINAL, event_message, gone_message, progress_message
from server.domain.queue_place import Waiting
from server.domain.session import AuditEvent, Progress, Session
from server.domain.tokens import Signer
from server.services import Services, open_services
from server.web.push import hub as hub_module
from server.web.push import probe as probe_module
from server.web.push import recovery as recovery_module
from server.web.push.follower import Follower
from server.web.push.hub import Hub
from testkit.fixtures import StartValkey
from testkit.running import new_session, outcome_of, until
from tryon.protocol.errors import Unavailable
from tryon.protocol.frames import encode
from tryon.protocol.states import Event, GoneReason

MakeConfig = Callable[..., Config]


class Page(Follower):
    """A client of the hub that notes what it is told, in order."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.told: list[str | int] = []
        self.pings = 0
        self.drained: int | None = None

    def snapshot(self, seq: int) -> None:
        self.told.append(f"snapshot {seq}")

    def event(self, frame: bytes) -> None:
        self.told.append(json.loads(frame)["seq"])

    def progress(self, frame: bytes) -> None:
        self.told.append(f"progress {json.loads(frame)['progress']}")

    def ping(self, frame: bytes) -> None:
        self.pings += 1

    def end(self, status: str) -> None:
        self.told.append(f"end {status}")

    def gone(self, reason: GoneReason) -> None:
        self.told.append(f"gone {reason}")

    def too_old(self, retry_after_ms: int) -> None:
        self.told.append("too old")

    def drain(self, retry_after_ms: int) -> None:
        self.drained = retry_after_ms

    @property
    def seqs(self) -> list[int]:
        """The snapshot's seq, then each event's."""
        first = [int(word.split()[1]) for word in self.told if isinstance(word, str) and word.startswith("snapshot")]
        return first + [seq for seq in self.told if isinstance(seq, int)]


class HeldSubscriber(RedisSubscriber):
    """The real one, but SUBSCRIBE leaves only when the test says so; and one can wait
    until all that was sent is here.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held = False
        self._pongs: dict[bytes, asyncio.Future[None]] = {}
        self._numbers = itertools.count()

    def _flush(self) -> None:
        if self.held:
            self._settle_later(self._outgoing)
        else:
            super()._flush()

    def let_go(self) -> None:
        self.held = False
        self._flush()

    def _reply(self, reply: Any) -> None:
        if type(reply) is list and reply[0] == b"pong" and reply[1] in self._pongs:
            self._pongs.pop(reply[1]).set_result(None)
        else:
            super()._reply(reply)

    async def settled(self) -> None:
        """Everything that Redis had for this connection has been handed over."""
        assert self._connection is not None
        word = b"settled %d" % next(self._numbers)
        self._pongs[word] = asyncio.get_running_loop().create_future()
        self._connection.send((b"PING", word))
        await self._pongs[word]


def make_hub(services: Services) -> Hub:
    return Hub(
        config=services.config,
        database=services.database,
        bus=services.bus,
        sessions=services.sessions,
        signer=services.signer,
        clock=services.clock,
        randomness=services.randomness,
        subscriber=functools.partial(HeldSubscriber, services.config.redis, randomness=services.randomness),
    )


def subscriber_of(hub: Hub) -> HeldSubscriber:
    assert isinstance(hub._subscriber, HeldSubscriber)
    return hub._subscriber


@pytest.fixture
async def services(config: MakeConfig) -> AsyncIterator[Services]:
    async with open_services(config(sweep_seconds=60.0)) as services:
        yield services


@pytest.fixture
async def hub(services: Services) -> AsyncIterator[Hub]:
    """A hub that is connected and will not sweep by itself for a minute."""
    hub = make_hub(services)
    async with hub.running():
        await without_sweeps(hub)
        yield hub


async def without_sweeps(hub: Hub) -> None:
    """Return when the hub has begun to wait out its full sweep period."""
    await until(lambda: hub.delivers and hub.recovery._cursor is not None)
    before = hub.recovery._cursor
    hub.recovery._sweep_wanted.set()
    await until(lambda: hub.recovery._cursor is not before)


async def join(hub: Hub, services: Services, page: Page, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(hub.following(page, transport="test"))
    story = await services.database.reading.with_events(page.session_id)
    assert story is not None
    page.snapshot(story.session.seq)
    hub.release(page, story.session)


def message(services: Services, event: AuditEvent) -> bytes:
    return event_message(event, services.sessions.access.issue().file)


async def move(services: Services, session: Session, event: Event) -> Moved:
    moved = await services.database.writing.transition(
        Change(session_id=session.id, outcome=outcome_of(event), from_status=session.status, actor="test")
    )
    assert moved is not None
    return moved


# -- joining while the session moves ---------------------------------------------------

JOINING: Final = ("register", "subscribe", "read", "snapshot", "release")
MOVING: Final = {
    "one": [["commit 1", "publish 1"]],
    "two": [
        ["commit 1", "publish 1", "commit 2", "publish 2"],
        ["commit 1", "commit 2", "publish 1", "publish 2"],
        ["commit 1", "commit 2", "publish 2", "publish 1"],  # by two processes
    ],
    "two, the first unpublished": [["commit 1", "commit 2", "publish 2"]],
}
EVENTS: Final = {
    "to the end": {1: [Event.CANCELLED], 2: [Event.PROCESSING, Event.COMPLETED]},
    "not to the end": {1: [Event.PROCESSING], 2: [Event.PROCESSING, Event.REQUEUED]},
}


def interleavings(first: tuple[str, ...], second: list[str]) -> Iterator[list[str]]:
    """Every order that keeps the order of each."""
    for places in itertools.combinations(range(len(first) + len(second)), len(second)):
        ours, theirs = iter(first), iter(second)
        yield [next(theirs) if at in places else next(ours) for at in range(len(first) + len(second))]


class Scenario:
    """One session, one client, and a list of steps."""

    def __init__(self, services: Services, hub: Hub, events: list[Event]) -> None:
        self.services = services
        self.hub = hub
        self.events = events
        self.moved: list[Moved] = []

    async def run(self, steps: list[str]) -> Page:
        self.session = await self.services.database.writing.insert(new_session())
        self.page = Page(self.session.id)
        self.confirmed: asyncio.Future[None] | None = None
        try:
            for step in steps:
                name, _, number = step.partition(" ")
                await getattr(self, name)(*([int(number)] if number else []))
            expected = self.session.seq
            await until(lambda: self.page.seqs[-1:] == [expected], seconds=3)
            await subscriber_of(self.hub).settled()
        except TimeoutError:
            raise AssertionError(f"{steps}: the client was told only {self.page.told}") from None
        finally:
            self.hub.leave(self.page, transport="test")
        return self.page

    async def register(self) -> None:
        subscriber_of(self.hub).held = True
        self.confirmed = self.hub.join(self.page, transport="test")

    async def subscribe(self) -> None:
        assert self.confirmed is not None
        subscriber_of(self.hub).let_go()
        await self.confirmed

    async def read(self) -> None:
        self.story = await self.services.database.reading.with_events(self.session.id)

    async def snapshot(self) -> None:
        assert self.story is not None
        self.page.snapshot(self.story.session.seq)

    async def release(self) -> None:
        assert self.story is not None
        self.hub.release(self.page, self.story.session)
        if self.story.session.status.terminal:
            self.page.end(self.story.session.status)

    async def commit(self, number: int) -> None:
        moved = await move(self.services, self.session, self.events[number - 1])
        self.session = moved.session
        self.moved.append(moved)

    async def publish(self, number: int) -> None:
        event = self.moved[number - 1].event
        assert await self.services.bus.publish(event.session_id, message(self.services, event))
        await subscriber_of(self.hub).settled()  # whoever is subscribed has it now


CASES = [
    (moving, ending, order)
    for moving, orders in MOVING.items()
    for order in orders
    for ending in EVENTS
    if ending == "to the end" or order is orders[0]
]


@pytest.mark.parametrize(
    ("ending", "order"), [(e, o) for _, e, o in CASES], ids=[f"{m}, {e}: {'-'.join(o)}" for m, e, o in CASES]
)
async def test_a_client_that_joins_while_the_session_moves_has_the_whole_story(
    hub: Hub, services: Services, ending: str, order: list[str]
) -> None:
    """In every order of the joiner's five steps and of the commits and publishes: a
    snapshot, then the rest, each once.
    """
    events = EVENTS[ending][len({step.split()[1] for step in order})]
    last = len(events) + 1
    for steps in interleavings(JOINING, order):
        if "publish 1" not in order and steps.index("publish 2") < steps.index("subscribe"):
            continue  # the news of both was lost before anybody listened; a read that came before is the sweep's to mend
        page = await Scenario(services, hub, events).run(steps)
        first = page.seqs[0]
        assert page.seqs == list(range(first, last + 1)), steps
        assert page.told[0] == f"snapshot {first}", steps
        if ending == "to the end":
            assert page.told[-1] == f"end {'completed' if last == 3 else 'cancelled'}", steps
            assert sum(str(word).startswith("end") for word in page.told) == 1, steps


async def test_what_is_lost_before_an_unconfirmed_joiner_listens_comes_by_the_sweep(
    hub: Hub, services: Services
) -> None:
    """Redis is slow to confirm, so the joiner reads without; then news passes before
    the subscription is there.
    """
    session = await services.database.writing.insert(new_session())
    page = Page(session.id)
    subscriber_of(hub).held = True
    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)  # goes on after CONFIRM_SECONDS
        moved = await move(services, session, Event.PROCESSING)
        await services.bus.publish(session.id, message(services, moved.event))
        subscriber_of(hub).let_go()
        await subscriber_of(hub).settled()
        assert page.seqs == [1]
        hub.recovery._sweep_wanted.set()
        await until(lambda: page.seqs == [1, 2])


async def test_a_hole_that_appears_while_another_is_filled_is_filled_too(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catch-up of one follower has read already when a second one, further behind,
    finds a hole.
    """
    session = await services.database.writing.insert(new_session())
    ahead, behind = Page(session.id), Page(session.id)
    gate, reading = asyncio.Event(), asyncio.Event()
    story = services.database.reading.with_events

    async def gated(session_id: str, since: int | None = None) -> SessionWithEvents | None:
        result = await story(session_id, since)
        if since is not None:
            reading.set()
            await gate.wait()
        return result

    two = await move(services, session, Event.PROCESSING)
    three = await move(services, two.session, Event.REQUEUED)
    four = await move(services, three.session, Event.PROCESSING)
    monkeypatch.setattr(services.database.reading, "with_events", gated)
    async with hub.following(ahead, transport="test"), hub.following(behind, transport="test"):
        hub.release(ahead, two.session)
        hub.receive(hub.registry.channel(session.id), message(services, four.event))
        await reading.wait()
        hub.release(behind, session)  # what it held, 4, shows a hole: 2 and 3 are missing
        gate.set()
        await until(lambda: ahead.seqs == [3, 4], seconds=3)
        await until(lambda: behind.seqs == [2, 3, 4], seconds=3)


async def test_many_followers_of_a_session_get_the_same_story(hub: Hub, services: Services) -> None:
    session = await services.database.writing.insert(new_session())
    pages = [Page(session.id) for _ in range(50)]
    async with contextlib.AsyncExitStack() as stack:
        joining = [asyncio.create_task(join(hub, services, page, stack)) for page in pages]
        for event in (Event.PROCESSING, Event.REQUEUED, Event.PROCESSING, Event.COMPLETED):
            moved = await move(services, session, event)
            session = moved.session
            await services.bus.publish(session.id, message(services, moved.event))
        await asyncio.gather(*joining)
        await until(lambda: all(page.seqs[-1:] == [5] for page in pages))
        for page in pages:
            assert page.seqs == list(range(page.seqs[0], 6))
    assert hub.followers == 0


# -- the rule itself -------------------------------------------------------------------


def frame(seq: int, last: int) -> tuple[int, int, bytes]:
    status = "completed" if seq == last else "processing"
    body = {"type": "event", "seq": seq, "status": status, "at": "2026-11-22T09:00:00.000Z"}
    return (TERMINAL if seq == last else EVENT, seq, encode(body))


@given(
    snapshot=st.integers(1, 6),
    last=st.integers(6, 9),
    before=st.lists(st.integers(1, 9), max_size=12),
    after=st.lists(st.integers(1, 9), max_size=20),
    progress=st.sets(st.integers(0, 19)),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_arrives_in_whatever_order_a_follower_never_repeats_skips_or_steps_back(
    snapshot: int, last: int, before: list[int], after: list[int], progress: set[int]
) -> None:
    """News in any order, doubled and dropped; a hole is always reported, and nothing
    else is.
    """
    page = Page("id")
    page.snapshot(snapshot)
    for seq in before:
        assert page.offer(*frame(min(seq, last), last))
    assert page.told == [f"snapshot {snapshot}"], "held until the snapshot is out"
    position, hole = snapshot, False
    for seq in before:
        seq = min(seq, last)
        hole |= seq > position + 1
        position += seq == position + 1
    assert page.resume(snapshot) is not hole
    for n, seq in enumerate(after):
        seq = min(seq, last)
        if n in progress:
            whole = page.offer(PROGRESS, seq, encode({"progress": 0.5}))
            assert whole is (seq <= position), "progress of a transition that was never seen means a hole"
            continue
        whole = page.offer(*frame(seq, last))
        assert whole is (seq <= position + 1)
        position += seq == position + 1
    assert page.seqs == list(range(snapshot, position + 1))
    assert sum(str(word).startswith("end") for word in page.told) == (position == last and snapshot < last)


@given(order=st.permutations(range(2, 8)), snapshot=st.integers(1, 7))
@settings(deadline=None)
def test_whoever_fills_each_reported_hole_ends_whole(order: list[int], snapshot: int) -> None:
    """As the hub does: after a hole everything missing is offered once more, in order."""
    page = Page("id")
    page.snapshot(snapshot)
    page.resume(snapshot)
    for seq in order:
        if not page.offer(*frame(seq, 7)):
            assert all(page.offer(*frame(missing, 7)) for missing in range((page.seq or 0) + 1, seq + 1))
    assert page.seqs == list(range(snapshot, 8))


def test_progress_of_an_older_transition_is_dropped() -> None:
    page = Page("id")
    page.resume(4)
    assert page.offer(PROGRESS, 3, encode({"progress": 0.9}))
    assert page.offer(PROGRESS, 4, encode({"progress": 0.1}))
    assert page.told == ["progress 0.1"]


def test_of_the_progress_held_for_a_joiner_the_newest_is_kept() -> None:
    page = Page("id")
    for step in range(1, 10):
        page.offer(PROGRESS, 2, encode({"progress": step / 10}))
    assert page.resume(2)
    assert page.told == ["progress 0.9"]


# -- progress, erasure, all at once ----------------------------------------------------


async def test_progress_reaches_followers_and_a_fenced_out_workers_does_not(hub: Hub, services: Services) -> None:
    session = await services.database.writing.insert(new_session())
    two = await move(services, session, Event.PROCESSING)
    page = Page(session.id)

    async def report(seq: int, attempt: int, progress: float) -> bool:
        word = Progress(seq=seq, attempt=attempt, at="2026-11-22T09:00:00.000Z", progress=progress, stage="rendering")
        return await services.bus.publish_progress(session.id, word, progress_message(session.id, word))

    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)
        assert await report(two.session.seq, 2, 0.5)
        assert not await report(two.session.seq, 1, 0.9), "an older attempt"
        assert await report(two.session.seq, 2, 0.6)
        await subscriber_of(hub).settled()
        assert page.told == ["snapshot 2", "progress 0.5", "progress 0.6"]
        held = (await services.bus.last_progress([session.id])).get(session.id)
        assert held is not None and held.progress == 0.6


async def test_progress_of_an_unseen_transition_brings_that_transition(hub: Hub, services: Services) -> None:
    session = await services.database.writing.insert(new_session())
    page = Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)
        moved = await move(services, session, Event.PROCESSING)  # its publish is lost
        word = Progress(seq=moved.session.seq, attempt=1, at="2026-11-22T09:00:00.000Z", progress=0.1)
        await services.bus.publish_progress(session.id, word, progress_message(session.id, word))
        await until(lambda: page.seqs == [1, 2])


async def test_a_message_that_is_none_of_ours_is_ignored(hub: Hub, services: Services) -> None:
    session = await services.database.writing.insert(new_session())
    page = Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)
        for garbage in (b"", b"hello", b"e" * 40, b"x0000000003000001 {}", b'{"type":"event"}'):
            await services.redis.publish(services.bus.channel(session.id), garbage)
        moved = await move(services, session, Event.PROCESSING)
        await services.bus.publish(session.id, message(services, moved.event))
        await until(lambda: page.seqs == [1, 2])


async def test_an_erasure_whose_news_is_lost_is_told_by_the_next_sweep(config: MakeConfig) -> None:
    async with open_services(config(sweep_seconds=0.2)) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            await until(lambda: hub.recovery._cursor is not None)
            session, other = (
                await services.database.writing.insert(new_session()),
                await services.database.writing.insert(new_session()),
            )
            page, unconcerned = Page(session.id), Page(other.id)
            await join(hub, services, page, stack)
            await join(hub, services, unconcerned, stack)
            await services.database.writing.erase(
                {session.id: services.signer.tombstone_hash(session.id)}, GoneReason.EXPIRED
            )
            await until(lambda: "gone expired" in page.told, seconds=2)
            assert unconcerned.told == ["snapshot 1"]


async def test_an_erasure_is_told_at_once_by_its_news(hub: Hub, services: Services) -> None:
    session = await services.database.writing.insert(new_session())
    page = Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)
        await services.bus.publish(session.id, gone_message(GoneReason.DELETED))
        await until(lambda: page.told[-1] == "gone deleted")


async def test_draining_spreads_the_return_of_the_clients(hub: Hub, services: Services) -> None:
    pages = [Page(new_session().id) for _ in range(5000)]
    for page in pages:
        hub.join(page, transport="test")
    assert hub.drain() == 5000
    delays = sorted(page.drained or 0 for page in pages)
    assert delays[0] >= 1500
    assert delays[-1] - delays[0] > 2000, "0.5 ms a client"
    assert delays[-1] < 4100
    for page in pages:
        hub.leave(page, transport="test")


async def test_followers_are_pinged_every_period(config: MakeConfig) -> None:
    async with open_services(config(ping_seconds=0.05)) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            session = await services.database.writing.insert(new_session())
            page = Page(session.id)
            await join(hub, services, page, stack)
            await until(lambda: page.pings >= 3, seconds=3)


# -- when pub/sub lies -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def followed(config: Config, sessions: int = 3) -> AsyncIterator[tuple[Services, Hub, list[Page]]]:
    """A hub with followers, all joined."""
    async with open_services(config) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            await until(lambda: hub.delivers and hub.recovery._cursor is not None)
            pages = [Page((await services.database.writing.insert(new_session())).id) for _ in range(sessions)]
            for page in pages:
                await join(hub, services, page, stack)
            yield services, hub, pages


async def step(services: Services, page: Page, event: Event) -> bool:
    """One transition, committed and published; whether Redis took it."""
    session = await services.database.reading.get(page.session_id)
    assert session is not None
    moved = await move(services, session, event)
    return await services.bus.publish(session.id, message(services, moved.event))


async def test_news_goes_on_while_redis_is_gone_and_when_it_is_back(
    config: MakeConfig, start_valkey: StartValkey
) -> None:
    valkey = start_valkey()
    async with followed(config(redis_url=valkey.url, sweep_seconds=60.0)) as (services, hub, pages):
        await asyncio.gather(*(step(services, page, Event.PROCESSING) for page in pages))
        await until(lambda: all(page.seqs == [1, 2] for page in pages))
        valkey.kill()
        await until(lambda: not hub.delivers)
        assert not any([await step(services, page, Event.REQUEUED) for page in pages])
        await until(lambda: all(page.seqs == [1, 2, 3] for page in pages), seconds=5)
        valkey.start()
        await until(lambda: hub.delivers)
        assert all([await step(services, page, Event.PROCESSING) for page in pages])
        await until(lambda: all(page.seqs == [1, 2, 3, 4] for page in pages), seconds=1)


async def test_what_was_published_while_the_connection_was_cut_comes_with_the_reconnect(
    config: MakeConfig, start_valkey: StartValkey
) -> None:
    """Redis itself stays up: only the subscriber's connection is killed, and the news
    falls into the gap.
    """
    valkey = start_valkey()
    async with followed(config(redis_url=valkey.url, sweep_seconds=60.0)) as (services, hub, pages):
        await without_sweeps(hub)
        connections = hub._subscriber.connections
        await services.redis.client_kill_filter(_type="pubsub")
        assert all([await step(services, page, Event.PROCESSING) for page in pages])
        await until(lambda: all(page.seqs == [1, 2] for page in pages), seconds=3)
        assert hub._subscriber.connections == connections + 1


async def test_every_subscription_is_back_after_a_reconnect(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RedisSubscriber, "BATCH", 7)
    valkey = start_valkey()
    async with followed(config(redis_url=valkey.url, sweep_seconds=60.0), sessions=50) as (services, hub, pages):
        connections = hub._subscriber.connections
        await services.redis.client_kill_filter(_type="pubsub")
        await until(lambda: hub._subscriber.connections > connections)
        await subscriber_of(hub).settled()
        counts = await services.redis.pubsub_numsub(*(services.bus.channel(page.session_id) for page in pages))
        assert {count for _, count in counts} == {1}


class DeafProxy:
    """Stands before Redis; on demand it swallows what Redis says on the connections
    that are open at that moment.
    """

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._deaf: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._redis: set[asyncio.StreamWriter] = set()
        self._orphaned: set[asyncio.StreamWriter] = set()
        self.swallowed = 0
        self.port = 0

    async def __aenter__(self) -> DeafProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_unix_connection(self._socket_path)
        self._open |= {writer, redis_writer}
        self._redis.add(redis_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, redis_writer)),
            asyncio.create_task(self._pump(redis_reader, writer)),
        ]
        self._tasks |= set(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if redis_writer in self._orphaned:
            await writer.wait_closed()
        for each in (writer, redis_writer):
            each.close()
        for pump in pumps:
            pump.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if writer in self._deaf:
                    self.swallowed += len(data)
                else:
                    if b"tryon-subscriber" in data:
                        self._subscriber = writer
                    writer.write(data)
                    await writer.drain()

    def cut_from_redis(self) -> None:
        """The connections that are open stay so for the client; Redis knows nothing of
        them any more.
        """
        for writer in self._redis:
            self._orphaned.add(writer)
            writer.close()

    def deafen(self) -> None:
        self._deaf = set(self._open)


async def test_a_connection_that_is_up_but_deaf_is_found_out_and_replaced(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error, no close: only nothing comes any more.

    The hub's probes to itself do not come back.
    """
    monkeypatch.setattr(probe_module, "PROBE_SECONDS", 0.1)
    valkey = start_valkey()
    async with DeafProxy(str(valkey.socket_path)) as proxy:
        settings = config(redis_url=f"redis://127.0.0.1:{proxy.port}/0", sweep_seconds=60.0)
        async with followed(settings) as (_, hub, pages):
            publisher = config(redis_url=valkey.url)
            async with open_services(publisher) as others:
                connections = hub._subscriber.connections
                proxy.deafen()
                assert all([await step(others, page, Event.PROCESSING) for page in pages])
                await until(lambda: all(page.seqs == [1, 2] for page in pages), seconds=5)
                await until(lambda: hub._subscriber.connections > connections and hub.delivers)
                assert all([await step(others, page, Event.COMPLETED) for page in pages])
                await until(lambda: all(page.seqs == [1, 2, 3] for page in pages), seconds=1)


async def test_a_subscriber_that_redis_has_forgotten_connects_again(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover behind one address, or when a firewall has dropped an idle
    connection: nobody says so.
    """
    monkeypatch.setattr(probe_module, "PROBE_SECONDS", 0.1)
    valkey = start_valkey()
    async with DeafProxy(str(valkey.socket_path)) as proxy:
        settings = config(redis_url=f"redis://127.0.0.1:{proxy.port}/0", sweep_seconds=60.0)
        async with followed(settings) as (_, hub, pages):
            connections = hub._subscriber.connections
            proxy.cut_from_redis()
            await until(lambda: hub._subscriber.connections > connections and hub.delivers, seconds=5)
            async with open_services(config(redis_url=valkey.url)) as others:
                assert all([await step(others, page, Event.PROCESSING) for page in pages])
            await until(lambda: all(page.seqs == [1, 2] for page in pages), seconds=1)


async def test_a_frozen_redis_does_not_keep_news_from_the_clients(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr("server.adapters.redis.connect.CALL_SECONDS", 0.2)
    valkey = start_valkey()
    async with followed(config(redis_url=valkey.url, sweep_seconds=60.0)) as (services, hub, pages):
        valkey.pause()
        try:
            assert not any(await asyncio.gather(*(step(services, page, Event.PROCESSING) for page in pages)))
            await until(lambda: all(page.seqs == [1, 2] for page in pages), seconds=5)
        finally:
            valkey.resume()
        await until(lambda: hub.delivers)


async def test_a_database_outage_only_delays_the_sweep(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with followed(config(sweep_seconds=0.1)) as (services, _, pages):
        news = services.database.feed.page

        async def away(cursor: Any) -> Any:
            raise Unavailable

        monkeypatch.setattr(services.database.feed, "page", away)
        session = await services.database.reading.get(pages[0].session_id)
        assert session is not None
        await move(services, session, Event.PROCESSING)  # its publish is lost as well
        monkeypatch.setattr(services.database.feed, "page", news)
        await until(lambda: pages[0].seqs == [1, 2])


# -- the last net ----------------------------------------------------------------------


async def test_what_no_news_told_is_found_by_the_look_at_every_session(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither Redis nor the sweep tells: the process was cut off for longer than an
    erasure is remembered.
    """
    monkeypatch.setattr(recovery_module, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(recovery_module, "CHECK_BATCH", 3)
    async with followed(config(sweep_seconds=60.0), sessions=8) as (services, hub, pages):
        await without_sweeps(hub)
        moved, deleted, rest = pages[0], pages[1], pages[2:]
        other = Page(moved.session_id)
        stranger = Page(new_session().id)
        hub.join(stranger, transport="test")
        async with contextlib.AsyncExitStack() as stack:
            await join(hub, services, other, stack)
            session = await services.database.reading.get(moved.session_id)
            assert session is not None
            two = await move(services, session, Event.PROCESSING)
            await move(services, two.session, Event.COMPLETED)
            await services.database.writing.erase(
                {deleted.session_id: services.signer.tombstone_hash(deleted.session_id)}, GoneReason.DELETED
            )
            await until(lambda: moved.seqs == other.seqs == [1, 2, 3], seconds=3)
            await until(lambda: "gone deleted" in deleted.told, seconds=3)
            assert all(page.told == ["snapshot 1"] for page in rest)
            assert stranger.told == [], "who was not let in learns nothing"
            assert moved.told == ["snapshot 1", 2, 3, "end completed"], "each once, however often it is looked at"
        hub.leave(stranger, transport="test")


async def test_an_expired_session_that_no_news_told_of_is_said_to_have_expired(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_module, "CHECK_SECONDS", 0.1)
    async with open_services(config(sweep_seconds=60.0, retention_seconds=1.0)) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            await without_sweeps(hub)
            page = Page((await services.database.writing.insert(new_session(retention_seconds=1.0))).id)
            await join(hub, services, page, stack)
            await until(lambda: "gone expired" in page.told, seconds=4)


async def test_what_was_committed_before_the_first_sweep_knew_where_to_begin_is_told(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor, gate = services.database.feed.cursor, asyncio.Event()

    async def late() -> Any:
        await gate.wait()
        return await cursor()

    monkeypatch.setattr(services.database.feed, "cursor", late)
    hub = make_hub(services)
    async with hub.running(), contextlib.AsyncExitStack() as stack:
        session = await services.database.writing.insert(new_session())
        page = Page(session.id)
        await join(hub, services, page, stack)
        await move(services, session, Event.PROCESSING)  # its publish is lost
        gate.set()
        await until(lambda: page.seqs == [1, 2], seconds=3)


# -- one fault stays one fault ---------------------------------------------------------


class Broken(Page):
    """A client whose transport raises."""

    def event(self, frame: bytes) -> None:
        raise RuntimeError("no transport")

    progress = ping = event

    def gone(self, reason: GoneReason) -> None:
        raise RuntimeError("no transport")

    def drain(self, retry_after_ms: int) -> None:
        raise RuntimeError("no transport")


async def test_a_client_that_cannot_be_told_keeps_nothing_from_the_others(hub: Hub, services: Services) -> None:
    session = await services.database.writing.insert(new_session())
    pages = [page(session.id) for page in (Broken, Page, Broken, Page, Broken)]
    whole = [page for page in pages if not isinstance(page, Broken)]
    async with contextlib.AsyncExitStack() as stack:
        for page in pages:
            await join(hub, services, page, stack)
        moved = await move(services, session, Event.PROCESSING)
        hub.receive(hub.registry.channel(session.id), message(services, moved.event))
        assert [page.seqs for page in whole] == [[1, 2]] * 2
        assert all(page.told[-1] == "too old" for page in pages if isinstance(page, Broken)), "they have to come back"
        moved = await move(services, moved.session, Event.REQUEUED)
        hub.recovery._feed(session.id, message(services, moved.event))
        assert [page.seqs for page in whole] == [[1, 2, 3]] * 2
        assert hub.drain() == 5
        assert all(page.drained is not None for page in whole)
        hub.receive(hub.registry.channel(session.id), gone_message(GoneReason.DELETED))
        assert [page.told[-1] for page in whole] == ["gone deleted"] * 2


async def test_a_chore_that_fails_is_tried_again_and_takes_no_other_with_it(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(hub_module, "FAILED_SECONDS", 0.05)
    async with followed(config(ping_seconds=0.05)) as (services, _, pages):
        probe, failures = services.bus.probe, 0

        async def failing(channel: str, payload: bytes) -> int | None:
            nonlocal failures
            failures += 1
            if failures < 3:
                raise RuntimeError("something nobody thought of")
            return await probe(channel, payload)

        monkeypatch.setattr(services.bus, "probe", failing)
        monkeypatch.setattr(services.database.clock, "now", lambda: float("nan"))  # so that pings fail
        await until(lambda: failures >= 5, seconds=3)
        monkeypatch.undo()
        pings = pages[0].pings
        await until(lambda: pages[0].pings > pings, seconds=3)


# -- who was let in --------------------------------------------------------------------


async def test_who_asks_for_a_new_snapshot_still_counts_as_a_follower(hub: Hub, services: Services) -> None:
    session = await services.database.writing.insert(new_session())
    page, stranger = Page(session.id), Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        hub.join(stranger, transport="test")
        assert hub.followers_of(session.id) == 0
        await join(hub, services, page, stack)
        assert hub.followers_of(session.id) == 1
        page.seq = None  # as sync does: held until the new snapshot is out
        assert hub.followers_of(session.id) == 1
        hub.leave(stranger, transport="test")


async def test_an_erasure_is_told_only_to_who_may_see_the_session(hub: Hub, services: Services) -> None:
    """Who has just joined is told when let in: else a stranger would learn that there
    was a session.
    """
    session = await services.database.writing.insert(new_session())
    page = Page(session.id)
    async with hub.following(page, transport="test"):
        hub.receive(hub.registry.channel(session.id), gone_message(GoneReason.DELETED))
        assert page.told == []
        hub.release(page, session)  # it was read just before
        assert page.told == ["gone deleted"]


async def test_an_erasure_costs_what_was_erased_not_who_is_connected(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [Page(new_session().id) for _ in range(500)]
    for page in pages:
        hub.join(page, transport="test")
        page.resume(1)
    hashed: list[str] = []
    tombstone_hashes = functools.partial(Signer.tombstone_hashes, services.signer)

    def counted(signer: Signer, session_id: str) -> tuple[str, ...]:
        hashed.append(session_id)
        return tombstone_hashes(session_id)

    monkeypatch.setattr(Signer, "tombstone_hashes", counted)
    other = new_session().id
    hub.recovery._end_erased(
        {tombstone_hashes(pages[7].session_id)[0]: GoneReason.EXPIRED, tombstone_hashes(other)[0]: GoneReason.DELETED}
    )
    assert [page for page in pages if page.told] == [pages[7]]
    assert pages[7].told == ["gone expired"]
    assert len(hashed) <= 2
    for page in pages:
        hub.leave(page, transport="test")
    assert hub.registry._erasable == {}, "nothing is kept of who has left"


async def test_a_place_in_the_queue_is_written_once_for_all_who_wait_with_it(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await services.database.writing.insert(new_session())
    pages = [Page(session.id) for _ in range(20)]
    frames: list[bytes] = []
    monkeypatch.setattr(Page, "progress", lambda page, frame: frames.append(frame))
    async with contextlib.AsyncExitStack() as stack:
        for page in pages:
            await join(hub, services, page, stack)
        hub.queue_news.announce(session.id, Waiting(queue_position=3, eta_seconds=9.0), "2026-11-22T09:00:00.000Z")
        assert len(frames) == 20
        assert all(frame is frames[0] for frame in frames)
        assert json.loads(frames[0])["queue_position"] == 3


async def test_pings_are_spread_over_the_period(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [Page(new_session().id) for _ in range(2000)]
    pinged: list[Page] = []
    monkeypatch.setattr(Page, "ping", lambda page, frame: pinged.append(page))
    for page in pages:
        hub.join(page, transport="test")
        page.seq = 1
    before, turns = len(pinged), []
    for _ in range(100):
        hub.pings.turn()
        turns.append(len(pinged) - before)
        before = len(pinged)
    assert sorted(map(id, pinged)) == sorted(map(id, pages)), "each once"
    assert max(turns) < 60, "20 on average"
    for page in pages:
        hub.leave(page, transport="test")
    assert not any(hub.pings._slots)
