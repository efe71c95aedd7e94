"""Joining, handing over and draining, in every order of the steps."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from typing import Final

import pytest

from server.adapters.database.changes import Moved
from server.adapters.redis.subscriber import RedisSubscriber
from server.domain.bus_message import EVENT, WAITING, bus_message, gone_message, progress_message
from server.domain.session import Progress
from server.services import Services, open_services
from server.web.push import hub as hub_module
from server.web.push import probe as probe_module
from server.web.push import recovery
from server.web.push.hub import Hub
from testkit.fixtures import StartValkey
from testkit.running import new_session, until
from tests.server.web.push.kit import (
    MakeConfig,
    Page,
    followed,
    join,
    make_hub,
    message,
    move,
    step,
    subscriber_of,
)
from tryon.protocol.states import Event, GoneReason

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
    """Yield every order of all steps that keeps the order of each list."""
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
        self.session = await self.services.database.writer.insert(new_session())
        self.page = Page(self.session.id)
        self.confirmed: asyncio.Future[None] | None = None
        try:
            for step in steps:
                name, _, number = step.partition(" ")
                await getattr(self, name)(*([int(number)] if number else []))
            expected = self.session.seq
            await until(lambda: self.page.seqs[-1:] == [expected])
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
        self.story = await self.services.database.reader.with_events(self.session.id)

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
async def test_joiner_gets_every_event_once_in_any_order(
    hub: Hub, services: Services, ending: str, order: list[str]
) -> None:
    """In every order of the joiner's five steps and of the commits and publishes.

    The client gets a snapshot, then the rest, each once.
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


async def test_followers_of_one_session_get_the_same_events(hub: Hub, services: Services) -> None:
    """Fifty clients join while the session moves; each is whole from its snapshot."""
    session = await services.database.writer.insert(new_session())
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


async def test_progress_of_an_older_attempt_is_refused(hub: Hub, services: Services) -> None:
    """Progress reaches followers, but not that of a worker which lost its lease."""
    session = await services.database.writer.insert(new_session())
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


async def test_foreign_message_is_ignored(hub: Hub, services: Services) -> None:
    """Garbage on a session's channel disturbs no follower."""
    session = await services.database.writer.insert(new_session())
    page = Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)
        for garbage in (b"", b"hello", b"e" * 40, b"x0000000003000001 {}", b'{"type":"event"}'):
            await services.redis.publish(services.bus.channel(session.id), garbage)
        moved = await move(services, session, Event.PROCESSING)
        await services.bus.publish(session.id, message(services, moved.event))
        await until(lambda: page.seqs == [1, 2])


async def test_erasure_is_delivered_by_its_message(hub: Hub, services: Services) -> None:
    """A follower gets the end of an erased session without a sweep."""
    session = await services.database.writer.insert(new_session())
    page = Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)
        await services.bus.publish(session.id, gone_message(GoneReason.DELETED))
        await until(lambda: page.told[-1] == "gone deleted")


async def test_drain_spreads_the_return_of_clients(hub: Hub, services: Services) -> None:
    """5,000 clients are asked to reconnect over 2.5 s, the first after RESTART_MS."""
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


async def test_subscriptions_are_restored_after_a_reconnect(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every channel is subscribed once again when the connection was lost."""
    monkeypatch.setattr(RedisSubscriber, "BATCH", 7)
    valkey = start_valkey()
    async with followed(config(redis_url=valkey.url, sweep_seconds=60.0), sessions=50) as (services, hub, pages):
        connections = hub._subscriber.connections
        await services.redis.client_kill_filter(_type="pubsub")
        await until(lambda: hub._subscriber.connections > connections)
        await subscriber_of(hub).settled()
        counts = await services.redis.pubsub_numsub(*(services.bus.channel(page.session_id) for page in pages))
        assert {count for _, count in counts} == {1}


async def test_first_connection_to_redis_is_followed_by_a_sweep(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts before Redis gives everyone what they missed at once."""
    monkeypatch.setattr(recovery, "SWEEP_WITHOUT_REDIS_SECONDS", 60.0)
    valkey = start_valkey()
    valkey.kill()
    async with open_services(config(redis_url=valkey.url, sweep_seconds=60.0)) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            await until(lambda: hub.recovery._cursor is not None)
            pages = [Page((await services.database.writer.insert(new_session())).id) for _ in range(3)]
            for page in pages:
                await join(hub, services, page, stack)
            assert not any([await step(services, page, Event.PROCESSING) for page in pages])
            valkey.start()
            await until(lambda: all(page.seqs == [1, 2] for page in pages), seconds=20)


class Broken(Page):
    """A follower whose transport raises."""

    def event(self, frame: bytes) -> None:
        raise RuntimeError("no transport")

    progress = ping = event

    def gone(self, reason: GoneReason) -> None:
        raise RuntimeError("no transport")

    def drain(self, retry_after_ms: int) -> None:
        raise RuntimeError("no transport")


async def test_failing_follower_does_not_affect_others(hub: Hub, services: Services) -> None:
    """A follower that raises is asked to reconnect; the others get every frame."""
    session = await services.database.writer.insert(new_session())
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


async def test_failing_chore_is_retried_alone(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes and pings fail for a while; both go on afterwards."""
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
        await until(lambda: failures >= 5)
        monkeypatch.undo()
        pings = pages[0].pings
        await until(lambda: pages[0].pings > pings)


async def test_resyncing_follower_still_counts(hub: Hub, services: Services) -> None:
    """A follower without a snapshot for now counts; one never admitted does not."""
    session = await services.database.writer.insert(new_session())
    page, stranger = Page(session.id), Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        hub.join(stranger, transport="test")
        assert hub.followers_of(session.id) == 0
        await join(hub, services, page, stack)
        assert hub.followers_of(session.id) == 1
        page.seq = None  # as sync does: held until the new snapshot is out
        assert hub.followers_of(session.id) == 1
        hub.leave(stranger, transport="test")


async def test_erasure_is_delivered_only_when_admitted(hub: Hub, services: Services) -> None:
    """A joiner gets an erasure with its release, so a stranger never learns of it."""
    session = await services.database.writer.insert(new_session())
    page = Page(session.id)
    async with hub.following(page, transport="test"):
        hub.receive(hub.registry.channel(session.id), gone_message(GoneReason.DELETED))
        assert page.told == []
        hub.release(page, session)  # it was read just before
        assert page.told == ["gone deleted"]


async def test_prefix_tells_whether_a_session_waits(hub: Hub, services: Services) -> None:
    """The hub reads the kind in the message's prefix, never the JSON behind it."""
    session = await services.database.writer.insert(new_session())
    page = Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)
        channel = hub.registry.channel(session.id)
        for seq, kind, waits in ((2, EVENT, False), (3, WAITING, True), (4, EVENT, False)):
            hub.receive(channel, bus_message(kind, seq, 1, b'{"seq":%d,"at":"2026-11-22T09:00:00.000Z"}' % seq))
            assert (session.id in hub.queue_news._waiting) is waits
        assert page.seqs == [1, 2, 3, 4]


async def test_drain_follows_the_order_of_joining(hub: Hub) -> None:
    """Later joiners are asked to reconnect later, so every run is the same."""
    pages = [Page(session_id) for session_id in [new_session().id for _ in range(3)] for _ in range(20)]
    for page in pages:
        hub.join(page, transport="test")
    hub.drain()
    delays = [page.drained for page in pages]
    assert None not in delays
    assert delays == sorted(delays, key=lambda delay: delay or 0)
    for page in pages:
        hub.leave(page, transport="test")
