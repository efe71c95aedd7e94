"""Followers are given from the database what pub/sub did not bring."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from server.adapters.database import feed
from server.adapters.database.reading import SessionWithEvents
from server.domain.bus_message import progress_message
from server.domain.session import Progress
from server.domain.tokens import Signer
from server.services import Services, open_services
from server.system.randomness import SystemRandomness
from server.web.push import hub as hub_module
from server.web.push import recovery as recovery_module
from server.web.push.followers import Followers
from server.web.push.hub import Hub
from server.web.push.recovery import Recovery
from testkit.fixtures import StartValkey
from testkit.running import new_session, until
from testkit.values import new_session_id
from testkit.virtual_time import VirtualLoop, run_virtually
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
    without_sweeps,
)
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Event, GoneReason


async def test_sweep_covers_an_unconfirmed_subscription(hub: Hub, services: Services) -> None:
    """Redis is slow to confirm; a message passes before the subscription is there."""
    session = await services.database.writer.insert(new_session())
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


async def test_second_hole_is_filled_while_catching_up(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One follower's read is done when another one, further behind, reports a hole."""
    session = await services.database.writer.insert(new_session())
    ahead, behind = Page(session.id), Page(session.id)
    gate, reading = asyncio.Event(), asyncio.Event()
    story = services.database.reader.with_events

    async def gated(session_id: str, since: int | None = None) -> SessionWithEvents | None:
        result = await story(session_id, since)
        if since is not None:
            reading.set()
            await gate.wait()
        return result

    two = await move(services, session, Event.PROCESSING)
    three = await move(services, two.session, Event.REQUEUED)
    four = await move(services, three.session, Event.PROCESSING)
    monkeypatch.setattr(services.database.reader, "with_events", gated)
    async with hub.following(ahead, transport="test"), hub.following(behind, transport="test"):
        hub.release(ahead, two.session)
        hub.receive(hub.registry.channel(session.id), message(services, four.event))
        await reading.wait()
        hub.release(behind, session)  # what it held, 4, shows a hole: 2 and 3 are missing
        gate.set()
        await until(lambda: ahead.seqs == [3, 4])
        await until(lambda: behind.seqs == [2, 3, 4])


async def test_progress_of_an_unseen_transition_is_a_hole(hub: Hub, services: Services) -> None:
    """The transition's message was lost; progress of it makes the hub read it."""
    session = await services.database.writer.insert(new_session())
    page = Page(session.id)
    async with contextlib.AsyncExitStack() as stack:
        await join(hub, services, page, stack)
        moved = await move(services, session, Event.PROCESSING)  # its publish is lost
        word = Progress(seq=moved.session.seq, attempt=1, at="2026-11-22T09:00:00.000Z", progress=0.1)
        await services.bus.publish_progress(session.id, word, progress_message(session.id, word))
        await until(lambda: page.seqs == [1, 2])


async def test_sweep_delivers_a_lost_erasure(config: MakeConfig) -> None:
    """The tombstone ends the followers of that session and of no other."""
    async with open_services(config(sweep_seconds=0.2)) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            await until(lambda: hub.recovery._cursor is not None)
            session, other = (
                await services.database.writer.insert(new_session()),
                await services.database.writer.insert(new_session()),
            )
            page, unconcerned = Page(session.id), Page(other.id)
            await join(hub, services, page, stack)
            await join(hub, services, unconcerned, stack)
            await services.database.writer.leave_tombstones(
                [services.signer.tombstone_hash(session.id)], GoneReason.EXPIRED
            )
            await until(lambda: "gone expired" in page.told)
            assert unconcerned.told == ["snapshot 1"]


async def test_events_arrive_without_redis_and_after_its_return(config: MakeConfig, start_valkey: StartValkey) -> None:
    """The sweep brings events while Redis is down, messages when it is back."""
    valkey = start_valkey()
    async with followed(config(redis_url=valkey.url, sweep_seconds=60.0)) as (services, hub, pages):
        await asyncio.gather(*(step(services, page, Event.PROCESSING) for page in pages))
        await until(lambda: all(page.seqs == [1, 2] for page in pages))
        valkey.kill()
        await until(lambda: not hub.delivers)
        assert not any([await step(services, page, Event.REQUEUED) for page in pages])
        await until(lambda: all(page.seqs == [1, 2, 3] for page in pages), seconds=20)
        valkey.start()
        await until(lambda: hub.delivers)
        assert all([await step(services, page, Event.PROCESSING) for page in pages])
        await until(lambda: all(page.seqs == [1, 2, 3, 4] for page in pages))


async def test_reconnect_sweeps_the_messages_it_missed(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Only the subscriber's connection is killed; the messages fall into the gap."""
    valkey = start_valkey()
    async with followed(config(redis_url=valkey.url, sweep_seconds=60.0)) as (services, hub, pages):
        await without_sweeps(hub)
        connections = hub._subscriber.connections
        await services.redis.client_kill_filter(_type="pubsub")
        assert all([await step(services, page, Event.PROCESSING) for page in pages])
        await until(lambda: all(page.seqs == [1, 2] for page in pages))
        assert hub._subscriber.connections == connections + 1


async def test_long_backlog_is_swept_without_a_pause(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full page is followed by the next one at once, not a sweep period later."""
    monkeypatch.setattr(feed, "PAGE_ROWS", 2)
    async with followed(config(sweep_seconds=60.0), sessions=7) as (services, hub, pages):
        await without_sweeps(hub)
        for page in pages:
            session = await services.database.reader.get(page.session_id)
            assert session is not None
            await move(services, session, Event.PROCESSING)  # its publish is lost
        hub.recovery._sweep_wanted.set()
        await until(lambda: all(page.seqs == [1, 2] for page in pages))


async def test_database_outage_only_delays_the_sweep(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep keeps its cursor and reads on when the database is back."""
    async with followed(config(sweep_seconds=0.1)) as (services, _, pages):
        news = services.database.feed.page

        async def away(cursor: Any, **options: Any) -> Any:
            raise Unavailable

        monkeypatch.setattr(services.database.feed, "page", away)
        session = await services.database.reader.get(pages[0].session_id)
        assert session is not None
        await move(services, session, Event.PROCESSING)  # its publish is lost as well
        monkeypatch.setattr(services.database.feed, "page", news)
        await until(lambda: pages[0].seqs == [1, 2])


async def test_check_finds_changes_that_nothing_delivered(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was cut off from the database for longer than tombstones are kept."""
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
            session = await services.database.reader.get(moved.session_id)
            assert session is not None
            two = await move(services, session, Event.PROCESSING)
            await move(services, two.session, Event.COMPLETED)
            await services.database.writer.erase([deleted.session_id])
            await until(lambda: moved.seqs == other.seqs == [1, 2, 3])
            await until(lambda: "gone deleted" in deleted.told)
            assert all(page.told == ["snapshot 1"] for page in rest)
            assert stranger.told == [], "who was not let in learns nothing"
            assert moved.told == ["snapshot 1", 2, 3, "end completed"], "each once, however often it is looked at"
        hub.leave(stranger, transport="test")


class Looks:
    """A reader that notes when each session is looked at."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    async def seqs(self, session_ids: list[str]) -> dict[str, int]:
        for session_id in session_ids:
            self.times[session_id].append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        return dict.fromkeys(session_ids, 1)


class NoOwners:
    """No client follows all sessions of an owner."""

    async def check_all(self) -> None: ...


@pytest.mark.parametrize("sessions", [1, 30, 3000])
def test_first_check_is_a_minute_away_at_most(sessions: int) -> None:
    """Sessions join over two minutes; then each is looked at once in a minute."""
    loop, chance, looks = VirtualLoop(), random.Random(sessions), Looks()
    pages = [Page(new_session().id) for _ in range(sessions)]
    joined: dict[str, float] = {}

    async def run() -> None:
        followers = Followers(channel=str, signer=Signer(["a secret key of the tests"]), randomness=SystemRandomness())
        parts: dict[str, Any] = dict.fromkeys(
            ("sweep_wanted", "database_clock", "feed", "access", "probe", "queue_news", "deliveries", "meter", "clock")
        )
        parts["owners"] = NoOwners()
        recovery = Recovery(
            sweep_seconds=4.0, retention_seconds=60.0, reader=cast(Any, looks), followers=followers, **parts
        )
        checks = asyncio.create_task(hub_module._repeat(recovery.next_check))
        for page in pages:
            await asyncio.sleep(chance.uniform(0, 240 / sessions))
            joined[page.session_id] = loop.time()
            followers.add(page)
            page.resume(1)
        await asyncio.sleep(200)
        checks.cancel()

    run_virtually(run(), loop)
    firsts = [looks.times[session_id][0] - at for session_id, at in joined.items()]
    assert max(firsts) <= recovery_module.CHECK_SECONDS
    rests = [after - before for times in looks.times.values() for before, after in itertools.pairwise(times)]
    assert 50 < min(rests) <= max(rests) <= recovery_module.CHECK_SECONDS


async def test_check_reports_an_old_session_as_expired(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a tombstone the age in the id decides between expiry and deletion."""
    monkeypatch.setattr(recovery_module, "CHECK_SECONDS", 0.1)
    async with open_services(config(sweep_seconds=60.0, retention_seconds=1.0)) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            await without_sweeps(hub)
            page = Page((await services.database.writer.insert(new_session(retention_seconds=1.0))).id)
            await join(hub, services, page, stack)
            await until(lambda: "gone expired" in page.told)


async def test_first_sweep_checks_every_session(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event committed before the first cursor is delivered all the same."""
    cursor, gate = services.database.feed.cursor, asyncio.Event()

    async def late() -> Any:
        await gate.wait()
        return await cursor()

    monkeypatch.setattr(services.database.feed, "cursor", late)
    hub = make_hub(services)
    async with hub.running(), contextlib.AsyncExitStack() as stack:
        session = await services.database.writer.insert(new_session())
        page = Page(session.id)
        await join(hub, services, page, stack)
        await move(services, session, Event.PROCESSING)  # its publish is lost
        gate.set()
        await until(lambda: page.seqs == [1, 2])


async def test_tombstone_lookup_does_not_hash_every_session(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 500 followers, two tombstones cost two hashes at most."""
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


# -- a follower that comes or leaves while the database is read ------------------------


class GatedRead:
    """A read of the database whose answer waits for :attr:`gate`."""

    def __init__(self, read: Callable[..., Awaitable[Any]]) -> None:
        self._read = read
        self.gate, self.done = asyncio.Event(), asyncio.Event()
        self.count = 0

    async def __call__(self, *args: Any) -> Any:
        self.count += 1
        answer = await self._read(*args)
        self.done.set()
        await self.gate.wait()
        return answer


async def test_hole_is_filled_when_it_is_found_while_filling(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower further behind is released while the hole of another one is read."""
    session = await services.database.writer.insert(new_session())
    ahead, behind = Page(session.id), Page(session.id)
    two = await move(services, session, Event.PROCESSING)
    three = await move(services, two.session, Event.REQUEUED)
    four = await move(services, three.session, Event.PROCESSING)
    read = GatedRead(services.database.reader.with_events)
    monkeypatch.setattr(services.database.reader, "with_events", read)
    async with hub.following(ahead, transport="test"):
        hub.release(ahead, two.session)
        hub.receive(hub.registry.channel(session.id), message(services, four.event))
        await read.done.wait()
        async with hub.following(behind, transport="test"):
            hub.release(behind, session)  # it holds nothing, so it knows of no hole
            read.gate.set()
            await until(lambda: ahead.seqs == [3, 4])
            await until(lambda: behind.seqs == [2, 3, 4])


async def test_event_that_the_database_lacks_is_not_read_for_ever(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restored backup, say: the hole stays, and costs one read."""
    session = await services.database.writer.insert(new_session())
    two = await move(services, session, Event.PROCESSING)
    three = await move(services, two.session, Event.REQUEUED)
    story = await services.database.reader.with_events(session.id, 2)
    assert story is not None
    reads = 0

    async def without_two(*args: Any) -> SessionWithEvents:
        nonlocal reads
        reads += 1
        return story

    monkeypatch.setattr(services.database.reader, "with_events", without_two)
    page = Page(session.id)
    async with hub.following(page, transport="test"):
        hub.release(page, session)
        hub.receive(hub.registry.channel(session.id), message(services, three.event))
        await until(lambda: not hub.recovery._catching_up)
    assert (reads, page.seqs) == (1, [])


@pytest.mark.parametrize("erased", [False, True], ids=["moved", "erased"])
async def test_first_sweep_covers_a_follower_that_is_still_reading(
    services: Services, monkeypatch: pytest.MonkeyPatch, erased: bool
) -> None:
    """The session was read before a commit that lies before the first cursor."""
    cursor = GatedRead(services.database.feed.cursor)
    monkeypatch.setattr(services.database.feed, "cursor", cursor)
    hub = make_hub(services)
    id = new_session_id()[:-1] + "7"  # the check that begins at once is of the ids that end in 0
    session = await services.database.writer.insert(new_session(id=id))
    page = Page(session.id)
    lost: Awaitable[object]
    lost = services.database.writer.erase([session.id]) if erased else move(services, session, Event.PROCESSING)
    async with hub.following(page, transport="test"):
        await lost  # and its message
        async with hub.running():
            cursor.gate.set()
            await until(lambda: hub.recovery._cursor is not None)
            assert page.told == []
            page.snapshot(session.seq)
            hub.release(page, session)  # as it was read
            await until(lambda: page.told == ["snapshot 1", "gone deleted" if erased else 2])


async def test_failed_sweep_is_tried_again_soon(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a whole period: a reconnect may have asked for it."""
    monkeypatch.setattr(recovery_module, "FAILED_SWEEP_SECONDS", 0.05)
    async with followed(config(sweep_seconds=60.0), sessions=1) as (services, hub, (page,)):
        await without_sweeps(hub)
        read, failures = services.database.feed.page, 0

        async def failing(cursor: Any, **options: Any) -> Any:
            nonlocal failures
            if failures < 2:
                failures += 1
                raise Unavailable
            return await read(cursor, **options)

        monkeypatch.setattr(services.database.feed, "page", failing)
        session = await services.database.reader.get(page.session_id)
        assert session is not None
        await move(services, session, Event.PROCESSING)  # its publish is lost
        hub.recovery._sweep_wanted.set()
        await until(lambda: page.seqs == [1, 2], seconds=20)


async def test_no_read_begins_when_the_hub_has_stopped(services: Services) -> None:
    """A message that shows a hole may arrive while the hub stops."""
    hub = make_hub(services)
    async with hub.running():
        pass
    session = await services.database.writer.insert(new_session())
    page = Page(session.id)
    hub.join(page, transport="test")
    page.resume(1)
    hub.recovery.catch_up(session.id)
    assert not hub.recovery._catching_up
    hub.leave(page, transport="test")
