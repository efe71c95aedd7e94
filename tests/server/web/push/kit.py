"""A hub over real servers, and followers that note their frames, for the tests here."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from server.adapters.database.changes import Change, Moved
from server.adapters.redis.subscriber import RedisSubscriber
from server.config.settings import Config
from server.domain.bus_message import event_message
from server.domain.session import AuditEvent, Session
from server.services import Services, open_services
from server.web import app
from server.web.push.follower import Follower
from server.web.push.hub import Hub
from testkit.running import new_session, outcome_of, until
from tryon.protocol.states import Event, GoneReason

MakeConfig = Callable[..., Config]


class Page(Follower):
    """A follower that records its frames, in order."""

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
    """A subscriber whose SUBSCRIBE leaves only when the test says so.

    A test can also wait until everything that was sent to it has arrived.
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
        """Wait until everything that Redis had for this connection was handed over."""
        assert self._connection is not None
        word = b"settled %d" % next(self._numbers)
        self._pongs[word] = asyncio.get_running_loop().create_future()
        self._connection.send((b"PING", word))
        await self._pongs[word]


def make_hub(services: Services) -> Hub:
    """Return the hub of a web process, with a subscriber that can be held."""
    return app.make_hub(services.config, services, subscriber=HeldSubscriber)


def subscriber_of(hub: Hub) -> HeldSubscriber:
    assert isinstance(hub._subscriber, HeldSubscriber)
    return hub._subscriber


async def without_sweeps(hub: Hub) -> None:
    """Return when the hub has begun to wait out its full sweep period."""
    await until(lambda: hub.delivers and hub.recovery._cursor is not None)
    before = hub.recovery._cursor
    hub.recovery._sweep_wanted.set()
    await until(lambda: hub.recovery._cursor is not before)


async def join(hub: Hub, services: Services, page: Page, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(hub.following(page, transport="test"))
    story = await services.database.reader.with_events(page.session_id)
    assert story is not None
    page.snapshot(story.session.seq)
    hub.release(page, story.session)


def message(services: Services, event: AuditEvent) -> bytes:
    return event_message(event, services.sessions.access.issue().file)


async def move(services: Services, session: Session, event: Event) -> Moved:
    moved = await services.database.writer.transition(
        Change(session_id=session.id, outcome=outcome_of(event), from_status=session.status, actor="test")
    )
    assert moved is not None
    return moved


@contextlib.asynccontextmanager
async def followed(config: Config, sessions: int = 3) -> AsyncIterator[tuple[Services, Hub, list[Page]]]:
    """Yield services, a hub and one joined follower for each session."""
    async with open_services(config) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            await until(lambda: hub.delivers and hub.recovery._cursor is not None)
            pages = [Page((await services.database.writer.insert(new_session())).id) for _ in range(sessions)]
            for page in pages:
                await join(hub, services, page, stack)
            yield services, hub, pages


async def step(services: Services, page: Page, event: Event) -> bool:
    """Commit and publish one transition; return whether Redis took it."""
    session = await services.database.reader.get(page.session_id)
    assert session is not None
    moved = await move(services, session, event)
    return await services.bus.publish(session.id, message(services, moved.event))
