"""The hub: hands each bus message to the followers of its session in this process.

Theory of operation
-------------------

One Redis connection per web process brings the messages of all followed sessions. The
hub strips the 18-byte prefix and hands the frame, the same bytes object, to every
follower of that session; nothing is decoded or encoded again. The parts:

* :mod:`~server.web.push.follower`: the rule of "no gap, no repeat, no step back", with
  one cursor per client (``seq``).
* :mod:`~server.web.push.followers`: the registry, by channel.
* :mod:`~server.web.push.owners`, :mod:`~server.web.push.watch`: connections that
  follow all sessions of an owner, with a follower for each.
* :mod:`~server.web.push.recovery`: reads from the database what pub/sub did not bring.
* :mod:`~server.web.push.probe`: finds out whether the connection delivers at all.
* :mod:`~server.web.push.pings`, :mod:`~server.web.push.queue_news`,
  :mod:`~server.web.push.deliveries`, :mod:`~server.web.push.meter`: the ping wheel, the
  places in the queue, the delivery log and the metrics.

Joining has five steps, and their order closes the gap between reading and following:
the transport *registers* a follower (:meth:`Hub.join`, a plain function), waits for the
*subscription*, *reads* the session, *sends* the snapshot and *releases* the follower
(:meth:`Hub.release`). Every event is either committed before the read, then it is in
the snapshot; or after it, then its message finds the follower registered. Messages that
arrive before the release are held and offered then; the cursor drops the ones that the
snapshot contains. If Redis does not confirm the subscription in time the client does
not wait: the sweep covers what it misses.

State changes happen in plain functions: there is no await between a look at the
registry and the change that relies on it, so no lock is needed. A follower's methods
must not block; one that raises is logged and its client asked to reconnect, and the
others are served as if nothing had happened.

:meth:`Hub.receive` is the hottest function of the product: it runs once a message, its
loop once a delivery. Its first branch repeats what :meth:`Follower.offer` would find
out for the usual case, the next transition, in a third of the time. It may not gain a
call or an attribute access without a benchmark (``python -m benchmarks fanout``). That
is why the hub reads the registry's and the meter's dictionaries itself, and asks the
message's prefix whether a session ends or waits, never the JSON behind it.

The chores (sweep, check, probe, pings, places, metrics, delivery log) are tasks of
:meth:`Hub.running`. A chore that fails is logged and tried again; it takes no other
with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from server.adapters.database.database import Database
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.subscribing import Subscriber
from server.config.settings import Config
from server.domain.bus_message import EVENT, PREFIX_BYTES, TERMINAL, WAITING, parse_prefix
from server.domain.session import Session
from server.domain.tokens import Signer
from server.services import Sessions
from server.system.clock import Clock
from server.system.randomness import Randomness
from server.telemetry import metrics
from server.web.push.deliveries import DeliveryLog
from server.web.push.follower import Follower
from server.web.push.followers import Followers
from server.web.push.meter import PushMeter
from server.web.push.owners import Owners
from server.web.push.pings import PingWheel
from server.web.push.probe import DeliveryProbe
from server.web.push.queue_news import QueueNews
from server.web.push.recovery import Recovery
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status

log = logging.getLogger("tryon.hub")

RESTART_MS: Final = 1500
"""Time that a process takes to stop and the next one to listen, on a busy machine."""

FAILED_SECONDS: Final = 1.0
"""Time after which a chore that failed is tried again."""

_TRANSITION: Final = (EVENT, WAITING, TERMINAL)

_followers: Final = functools.cache(metrics.followers.labels)


class MakeSubscriber(Protocol):
    """Builds the subscriber connection around the hub's two callbacks."""

    def __call__(
        self, *, on_message: Callable[[bytes, bytes], None], on_restored: Callable[[], None]
    ) -> Subscriber: ...


class Hub:
    """The followers of one web process, and the parts that serve them."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        bus: RedisBus,
        sessions: Sessions,
        signer: Signer,
        clock: Clock,
        randomness: Randomness,
        subscriber: MakeSubscriber,
    ) -> None:
        self._randomness = randomness
        self._monotonic = clock.monotonic
        self.registry = Followers(channel=bus.channel, signer=signer, randomness=randomness)
        self._followers = self.registry.by_channel
        self._failed = self.registry.failed
        self.meter = PushMeter(database.clock)
        self._handed = self.meter.handed
        self.deliveries = DeliveryLog(database_clock=database.clock, writer=database.writer)
        self.queue_news = QueueNews(
            followers=self.registry, queue_places=sessions.queue_places, database_clock=database.clock
        )
        self.pings = PingWheel(
            period_seconds=config.ping_seconds,
            socket_seconds=config.socket_seconds,
            followers=self.registry,
            database_clock=database.clock,
            clock=clock,
            randomness=randomness,
        )
        sweep_wanted = asyncio.Event()
        self._subscriber = subscriber(on_message=self.receive, on_restored=sweep_wanted.set)
        self.probe = DeliveryProbe(
            bus=bus, subscriber=self._subscriber, key_prefix=config.key_prefix, clock=clock, randomness=randomness
        )
        self.owners = Owners(
            channel=bus.owner_channel, subscriber=self._subscriber, pings=self.pings, reader=database.reader
        )
        self.recovery = Recovery(
            sweep_seconds=config.sweep_seconds,
            sweep_wanted=sweep_wanted,
            retention_seconds=config.retention_seconds,
            database_clock=database.clock,
            reader=database.reader,
            feed=database.feed,
            access=sessions.access,
            followers=self.registry,
            owners=self.owners,
            probe=self.probe,
            queue_news=self.queue_news,
            deliveries=self.deliveries,
            meter=self.meter,
            clock=clock,
        )
        self.draining = False

    def __repr__(self) -> str:
        return f"<Hub sessions={len(self._followers)} followers={self.followers} {self._subscriber!r}>"

    @property
    def followers(self) -> int:
        """The number of followers of all sessions, and of all owners."""
        return len(self.registry) + len(self.owners)

    def followers_of(self, session_id: str) -> int:
        """Return how many admitted followers a session has.

        A follower that waits for the first read of its session does not count, nor does
        one on a connection that follows all sessions of the owner.
        """
        return sum(follower.admitted and follower.alone for follower in self.registry.of(session_id))

    @property
    def delivers(self) -> bool:
        """Whether messages reach this process through Redis."""
        return self.probe.delivers

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the connection to Redis and the chores running."""
        chores = (
            self.recovery.next_check,
            self.owners.next_check,
            self.probe.next_probe,
            self.pings.next_turn,
            self.queue_news.next_places,
            self.meter.next_flush,
            self.deliveries.next_batch,
        )
        async with self._subscriber, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.recovery.run_sweeps())]
            tasks += [group.create_task(_repeat(chore)) for chore in chores]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await self.recovery.stop()
                await self.deliveries.flush()

    # -- joining -----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def following(self, follower: Follower, *, transport: str) -> AsyncIterator[None]:
        """Follow for as long as this is open.

        A session that is read inside is never too old to go on from.
        """
        confirmed = self.join(follower, transport=transport)
        try:
            await self.confirmation(confirmed)
            yield
        finally:
            self.leave(follower, transport=transport)

    def join(self, follower: Follower, *, transport: str) -> asyncio.Future[None]:
        """Register, then subscribe; return a future of the confirmation.

        It is done when Redis has confirmed, or has not in time.
        """
        self.pings.add(follower)
        _followers(transport).inc()
        return self.attach(follower)

    def attach(self, follower: Follower) -> asyncio.Future[None]:
        """Register one session of a connection that follows several, then subscribe.

        As :meth:`join`, but the connection itself is pinged and counted elsewhere.
        """
        return self._subscriber.subscribe(self.registry.add(follower))

    async def confirmation(self, confirmed: asyncio.Future[None]) -> None:
        """Wait for a subscription: for a short time, which the subscriber bounds."""
        if not confirmed.done():
            await asyncio.shield(confirmed)  # other followers may wait for the same one

    def leave(self, follower: Follower, *, transport: str) -> None:
        """Forget a follower; do nothing if that was done before."""
        if self.detach(follower):
            _followers(transport).dec()
            self.pings.remove(follower)

    def detach(self, follower: Follower) -> bool:
        """Undo :meth:`attach`; return False if that was done before."""
        remaining = self.registry.remove(follower)
        if remaining == 0:
            self.queue_news.forget(follower.session_id)
            self._subscriber.unsubscribe(self.registry.channel(follower.session_id))
        return remaining is not None

    def release(self, follower: Follower, session: Session) -> None:
        """Deliver what was held, then events as they come.

        The client has been given the session in this state.
        """
        self.resume(follower, session.seq)
        self.queue_news.note(session.id, session.seq, waits=session.status is Status.CREATED)

    def resume(self, follower: Follower, seq: int) -> None:
        """Deliver what was held, then events as they come.

        The client has been given everything up to ``seq``.
        """
        if follower not in self.registry:
            return  # it left while the session was read
        holds_end = follower.holds_end
        if not follower.resume(seq):
            self.recovery.catch_up(follower.session_id)
        elif holds_end and follower.seq is not None:  # else its connection did not take the end
            self.deliveries.note(follower.session_id)

    # -- messages ----------------------------------------------------------------------

    def receive(self, channel: bytes, message: bytes) -> None:
        """Hand one bus message to the followers of its session."""
        followers = self._followers.get(channel)
        if followers is None:
            if channel == self.probe.channel:
                self.probe.receive(message)
            else:
                self.owners.receive(channel, message)
            return
        try:
            kind, seq = parse_prefix(message)
        except ValueError as error:
            log.warning("Ignored a message on %s: %s", channel.decode(), error)
            return
        frame = message[PREFIX_BYTES:]
        everybody = tuple(followers)
        whole = True
        before = seq - 1
        for follower in everybody:
            try:
                if kind == EVENT and follower.seq == before:  # what `offer` would find out, in a third of the time
                    follower.seq = seq
                    follower.event(frame)
                else:
                    whole = follower.offer(kind, seq, frame) and whole
            except Exception:
                self._failed(follower)
        self._handed[kind] += len(everybody)
        if kind in _TRANSITION:
            self.queue_news.note(everybody[0].session_id, seq, waits=kind == WAITING)
            if kind == TERMINAL:
                self.deliveries.note_offered(everybody, seq)
            if (now := self._monotonic()) >= self.meter.measure_at:
                self.meter.measure(frame, now)
        if not whole:
            self.recovery.catch_up(everybody[0].session_id)

    # -- the end of the process --------------------------------------------------------

    def drain(self) -> int:
        """Ask all clients to reconnect elsewhere; return how many were notified.

        Their return is spread over 0.5 ms a client, at least a second, and begins when
        another process can listen (:data:`RESTART_MS`). A client that comes earlier is
        refused and then waits by its own back-off.
        """
        self.draining = True
        everybody = [*(each for each in self.registry.all() if each.alone), *self.owners.lines()]
        spread_ms = max(1000.0, 0.5 * len(everybody))
        turns = itertools.count()
        self.registry.notify(
            everybody, lambda follower: follower.drain(RESTART_MS + int(spread_ms * next(turns) / len(everybody)))
        )
        return len(everybody)

    def return_ms(self) -> int:
        """Return when one client may reconnect to a server that is stopping."""
        return RESTART_MS + self._randomness.randint(0, 1000)


async def _repeat(chore: Callable[[], Awaitable[None]]) -> None:
    """Run a chore for ever; it waits for its time, then does its work once."""
    while True:
        try:
            await chore()
            continue
        except Unavailable as error:
            log.warning("Hub chore %s will be tried again: %s", chore.__name__, error.detail)
        except Exception:
            log.exception("Hub chore %s failed and will be tried again", chore.__name__)
        await asyncio.sleep(FAILED_SECONDS)
