"""Who follows which session in this process, and what each has already seen.

One subscriber connection brings the news of all sessions; the hub hands each frame to
the followers of its session, the same bytes to all. What keeps every client's story
whole:

* A follower registers in a plain function *before* the session is read, and holds what
  arrives until it was (joining).
* Each follower has a cursor, the last ``seq`` it was given: seen -> drop, next -> send,
  a hole -> read the database again.
* Pub/sub may lie. After every reconnect, and every few seconds anyway, the hub reads
  what was committed since the last time and feeds it in like news; a probe published to
  itself proves that the connection delivers. Once a minute it looks at every followed
  session itself, whatever the other nets have let through.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import random
import secrets
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from server.adapters.database.database import Database
from server.adapters.database.feed import Cursor
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.subscriber import RedisSubscriber
from server.config.settings import Config
from server.domain.bus_message import (
    EVENT,
    GONE,
    PREFIX_BYTES,
    PROGRESS,
    TERMINAL,
    event_message,
    gone_message,
    parse_prefix,
)
from server.domain.queue_place import Waiting, worth_telling
from server.domain.session import Session, timestamp
from server.domain.tokens import Signer
from server.sessions.sessions import WAITING_SECONDS, Sessions
from server.system.randomness import SystemRandomness
from server.telemetry import metrics
from server.web.push.deliveries import Receipts
from tryon.protocol.errors import Unavailable
from tryon.protocol.frames import PingFrame, ProgressFrame, encode
from tryon.protocol.states import GoneReason, Status

log = logging.getLogger("tryon.hub")

PROBE_SECONDS: Final = 2.0
"""How often the hub publishes to itself; a probe that has not come back by the next one
means a deaf connection.
"""

SWEEP_WITHOUT_REDIS_SECONDS: Final = 1.0

CHECK_SECONDS: Final = 60.0
"""Every followed session is looked at once in this time."""

CHECK_BATCH: Final = 100
"""Sessions per statement of that look; the statements are spread over the time. 400
keep the loop busy for 7 ms.
"""

RESTART_MS: Final = 1500
"""What a process takes to stop and the next one to listen, on a busy machine."""

TELL_BATCH: Final = 20
"""Sessions that are told their place at once."""

FAILED_SECONDS: Final = 1.0
"""A chore that failed is tried again after this time."""

COUNT_SECONDS: Final = 1.0
"""How far the metrics of other processes may be behind."""

SLOT_SECONDS: Final = 0.25
MAX_SLOTS: Final = 100
"""Into how many parts the time between two pings is divided: one each quarter of a
second, or fewer.
"""

ANSWER_SHARE: Final = 0.75
"""Of the time between two pings: so long may an answer take.

Who falls silent right after one is gone 1.75 periods later.
"""

MEASURE_SECONDS: Final = 0.001
"""The delay of news is measured on one transition in this time."""

_FRAMES: Final = {
    kind: metrics.frames.labels(name)
    for kind, name in ((EVENT, "event"), (TERMINAL, "event"), (PROGRESS, "progress"), (GONE, "gone"))
}


_TRANSITION: Final = (EVENT, TERMINAL)

_followers: Final = functools.cache(metrics.followers.labels)


class _End(msgspec.Struct):
    status: str
    at: str


class Follower(ABC):
    """One client that follows one session.

    A transport implements what happens to a frame; all of it must not block.

    ``seq`` is the last transition that the client was given. Until :meth:`Hub.release`
    it is None and frames are held; also while an old client asks for a new snapshot.
    ``let_in``: it has been released once, so it may see the session.
    """

    __slots__ = ("_held", "joined_at", "let_in", "seq", "session_id", "slot")

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.joined_at = time.monotonic()
        self.seq: int | None = None
        self.let_in = False
        self.slot = 0
        """Of the hub's wheel."""
        self._held: list[tuple[int, int, bytes]] | None = None

    @abstractmethod
    def event(self, frame: bytes) -> None:
        """One transition; must reach the client or the client must be closed."""

    @abstractmethod
    def progress(self, frame: bytes) -> None:
        """May be replaced by the next one before it is sent."""

    @abstractmethod
    def ping(self, frame: bytes) -> None:
        """For the client's watchdog; may be dropped."""

    def overdue(self) -> None:  # noqa: B027 - most transports have no answer to wait for
        """The time to answer the last ping is over (:data:`ANSWER_SHARE`)."""

    @abstractmethod
    def end(self, status: str) -> None:
        """The terminal event was handed over: nothing follows."""

    @abstractmethod
    def gone(self, reason: GoneReason) -> None:
        """The session was erased."""

    @abstractmethod
    def too_old(self, retry_after_ms: int) -> None:
        """Connected for too long: come back, perhaps to another server."""

    @abstractmethod
    def drain(self, retry_after_ms: int) -> None:
        """This server is about to stop: come back after that time."""

    def broken(self) -> None:
        """Telling it something has failed, so it may miss that: it has to come back."""
        self.too_old(random.randint(100, 5000))

    def offer(self, kind: int, seq: int, frame: bytes) -> bool:
        """Take one piece of news.

        False: there is a hole before it; the caller reads the database.

        The whole rule of "no gap, no repeat, no step back", in one place and without an
        await.
        """
        if kind == GONE and self.let_in:
            self.gone(GoneReason(msgspec.json.decode(frame)["reason"]))
            return True
        if self.seq is None:
            if self._held is None:
                self._held = []
            if kind == PROGRESS and self._held and self._held[-1][0] == PROGRESS:
                self._held[-1] = (kind, seq, frame)
            else:
                self._held.append((kind, seq, frame))
            return True
        if kind == PROGRESS:
            if seq == self.seq:
                self.progress(frame)
            return seq <= self.seq
        if seq <= self.seq:
            return True
        if seq != self.seq + 1:
            return False
        self.seq = seq
        self.event(frame)
        if kind == TERMINAL:
            self.end(msgspec.json.decode(frame, type=_End).status)
        return True

    def take_up(self, seq: int) -> bool:
        """The client has been given everything up to ``seq``; hand over what was held.

        False: a hole.
        """
        self.seq = seq
        self.let_in = True
        held, self._held = self._held, None
        whole = True
        for kind, at, frame in held or ():
            whole = self.offer(kind, at, frame) and whole
        return whole


class Hub:
    """The followers of one web process.

    State changes happen in plain functions only: no await in between.
    """

    def __init__(
        self, *, config: Config, database: Database, bus: RedisBus, sessions: Sessions, signer: Signer, redis_url: str
    ) -> None:
        self._config = config
        self._clock = database.clock
        self._reading = database.reading
        self._database_feed = database.feed
        self._bus = bus
        self._sessions = sessions
        self._signer = signer
        self._followers: dict[bytes, set[Follower]] = {}
        self._gone: dict[int, str] = {}
        """Followed sessions by the beginnings of what is kept of them once they are
        erased, under each key.
        """
        self._catching_up: dict[str, asyncio.Task[None]] = {}
        self._holes: set[str] = set()
        """Sessions with a hole that was found after the last reading began."""
        self._subscriber = RedisSubscriber(
            redis_url, on_message=self.receive, on_restored=self._sweep_now, randomness=SystemRandomness()
        )
        self._probe_channel = f"{config.key_prefix}probe:{secrets.token_hex(8)}".encode()
        self._probe_came_back = b""
        self._probe_delay_seconds: float | None = None
        self._sweep_wanted = asyncio.Event()
        self._cursor: Cursor | None = None
        self._waiting: dict[str, Waiting | None] = {}
        """Followed sessions that wait for a worker, and what their followers were last
        told about it.
        """
        self._places: dict[str, Waiting] = {}
        """The queue as it was when they were."""
        slots = max(4, min(MAX_SLOTS, round(config.ping_seconds / SLOT_SECONDS)))
        self._wheel: list[set[Follower]] = [set() for _ in range(slots)]
        """Who is pinged at which part of the period."""
        self._turn = 0
        self._measure_at = 0.0
        self._handed = dict.fromkeys(_FRAMES, 0)
        self.receipts = Receipts(clock=database.clock, writing=database.writing)
        self.draining = False

    def __repr__(self) -> str:
        return f"<Hub sessions={len(self._followers)} followers={self.followers} {self._subscriber!r}>"

    @property
    def followers(self) -> int:
        return sum(len(followers) for followers in self._followers.values())

    def followers_of(self, session_id: str) -> int:
        """How many have been let in: who still waits for the first look at the session
        does not count.
        """
        return sum(follower.let_in for follower in self._of(session_id))

    @property
    def delivers(self) -> bool:
        """Whether the last probe that had time to come back did."""
        return self._subscriber.up and self._probe_delay_seconds is not None

    @property
    def probe_delay_seconds(self) -> float | None:
        """How long the last probe travelled through Redis; None while the connection is
        deaf or down.
        """
        return self._probe_delay_seconds

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connected to Redis, sweeping, probing and pinging."""
        async with self._subscriber, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._sweep_for_ever()),
                *(
                    group.create_task(self._for_ever(chore))
                    for chore in (
                        self._check,
                        self._probe,
                        self._ping,
                        self._tell_waiting,
                        self._count,
                        self.receipts.next_batch,
                    )
                ),
            ]
            try:
                yield
            finally:
                catching_up = tuple(self._catching_up.values())
                for task in (*tasks, *catching_up):
                    task.cancel()
                if catching_up:
                    await asyncio.wait(catching_up)
                await self.receipts.flush()

    async def _for_ever(self, chore: Callable[[], Awaitable[None]]) -> None:
        """A chore waits for its time, then does its work once.

        One that fails takes no other with it.
        """
        while True:
            try:
                await chore()
                continue
            except Unavailable as error:
                log.warning("The hub's chore %s has to wait: %s", chore.__name__, error.detail)
            except Exception:
                log.exception("The hub's chore %s failed and will be tried again", chore.__name__)
            await asyncio.sleep(FAILED_SECONDS)

    # -- joining -----------------------------------------------------------------------

    def _channel(self, session_id: str) -> bytes:
        return self._bus.channel(session_id).encode()

    @contextlib.asynccontextmanager
    async def following(self, follower: Follower, *, transport: str) -> AsyncIterator[None]:
        """Follow for as long as this is open.

        What the caller reads inside is never too old.
        """
        confirmed = self.join(follower, transport=transport)
        try:
            await self.confirmation(confirmed)
            yield
        finally:
            self.leave(follower, transport=transport)

    def join(self, follower: Follower, *, transport: str) -> asyncio.Future[None]:
        """Register, then subscribe; done when Redis has confirmed it, or does not in
        time.
        """
        channel = self._channel(follower.session_id)
        followers = self._followers.get(channel)
        if followers is None:
            followers = self._followers[channel] = set()
            for id_hash in self._signer.gone_hashes(follower.session_id):
                self._gone[_beginning(id_hash)] = follower.session_id
        followers.add(follower)
        follower.slot = random.randrange(len(self._wheel))
        self._wheel[follower.slot].add(follower)
        _followers(transport).inc()
        return self._subscriber.subscribe(channel)

    async def confirmation(self, confirmed: asyncio.Future[None]) -> None:
        """Wait for a subscription; not for long, the bus sees to that.

        Then the sweep covers it.
        """
        if not confirmed.done():
            await asyncio.shield(confirmed)  # others wait for it too

    def leave(self, follower: Follower, *, transport: str) -> None:
        """Forget a follower. Once too often does no harm."""
        channel = self._channel(follower.session_id)
        followers = self._followers.get(channel)
        if followers is None or follower not in followers:
            return
        _followers(transport).dec()
        followers.discard(follower)
        self._wheel[follower.slot].discard(follower)
        if not followers:
            del self._followers[channel]
            for id_hash in self._signer.gone_hashes(follower.session_id):
                self._gone.pop(_beginning(id_hash), None)
            self._waiting.pop(follower.session_id, None)
            self._subscriber.unsubscribe(channel)

    def release(self, follower: Follower, session: Session) -> None:
        """The caller has given the client this state: what was held follows, then the
        news as it comes.
        """
        if follower not in self._followers.get(self._channel(follower.session_id), ()):
            return  # it went away while the state was read
        if session.status is Status.CREATED:
            self._waiting.setdefault(session.id, None)
        self.take_up(follower, session.seq)

    def take_up(self, follower: Follower, seq: int) -> None:
        """The client has been given everything up to ``seq``: what was held follows,
        then the news as it comes.
        """
        held_end = any(kind == TERMINAL for kind, _, _ in follower._held or ())
        if not follower.take_up(seq):
            self._catch_up(follower.session_id)
        elif held_end:
            self.receipts.note(follower.session_id)

    # -- news --------------------------------------------------------------------------

    def receive(self, channel: bytes, message: bytes) -> None:
        """One bus message, straight from Redis or from the sweep."""
        followers = self._followers.get(channel)
        if followers is None:
            if channel == self._probe_channel:
                self._probe_came_back = message
                self._probe_delay_seconds = time.monotonic() - float(message.split()[1])
            return
        try:
            kind, seq = parse_prefix(message)
        except ValueError as error:
            log.warning("Ignored on %s: %s", channel.decode(), error)
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
            self._note_waiting(everybody[0].session_id, frame)
            if kind == TERMINAL:
                self._note_end(everybody, seq)
            if (now := time.monotonic()) >= self._measure_at:
                self._measure(frame, now)
        if not whole:
            self._catch_up(everybody[0].session_id)

    def _note_end(self, followers: Sequence[Follower], seq: int) -> None:
        """Called after the terminal event was offered: whoever has it now was given it,
        or is about to ask for it.
        """
        if any(follower.seq == seq for follower in followers):
            self.receipts.note(followers[0].session_id)

    def _of(self, session_id: str) -> tuple[Follower, ...]:
        return tuple(self._followers.get(self._channel(session_id), ()))

    def _each(self, followers: Iterable[Follower], tell: Callable[[Follower], object]) -> None:
        """Tell each; one that fails keeps nothing from the others."""
        for follower in followers:
            try:
                tell(follower)
            except Exception:
                self._failed(follower)

    def _failed(self, follower: Follower) -> None:
        """Called where telling it has raised."""
        log.exception("%r could not be told and has to come back", follower)
        with contextlib.suppress(Exception):
            follower.broken()

    def _measure(self, frame: bytes, now: float) -> None:
        """How old the news is.

        Looked at a thousand times a second at most: reading the time out of the JSON
        costs as much as sending it.
        """
        self._measure_at = now + MEASURE_SECONDS
        metrics.push_seconds.observe(max(0.0, self._clock.now() - _unix(frame)))

    async def _count(self) -> None:
        await asyncio.sleep(COUNT_SECONDS)
        self.count()

    def count(self) -> None:
        """Bring ``tryon_frames`` up to date.

        Counting each frame there would cost as much as handing it over.
        """
        for kind, number in self._handed.items():
            if number:
                self._handed[kind] = 0
                _FRAMES[kind].inc(number)

    def _catch_up(self, session_id: str) -> None:
        """Somebody saw a hole: read what is missing, once for all followers of that
        session.
        """
        self._holes.add(session_id)
        if session_id not in self._catching_up:
            task = asyncio.create_task(self._read_again(session_id), name=f"catch-up {session_id}")
            self._catching_up[session_id] = task

    async def _read_again(self, session_id: str) -> None:
        again = True
        try:
            while again:
                self._holes.discard(session_id)
                followers = self._followers.get(self._channel(session_id), set())
                behind = min((f.seq for f in followers if f.seq is not None), default=None)
                if behind is None:
                    return
                story = await self._reading.with_events(session_id, behind)
                again = session_id in self._holes  # somebody further behind came while this was read
                link = self._sessions.access().file
                for event in story.events if story else ():
                    self._feed(session_id, event_message(event, link))
        except Unavailable:
            pass  # the sweep reads it when the database is back
        except Exception:
            log.exception("What was missed of session %s could not be read", session_id)
        finally:
            self._holes.discard(session_id)
            del self._catching_up[session_id]

    def _feed(self, session_id: str, message: bytes) -> None:
        """Like :meth:`receive`, from the database: in order, so nobody meets a hole."""
        kind, seq = parse_prefix(message)
        frame = message[PREFIX_BYTES:]
        self._note_waiting(session_id, frame)

        def offer(follower: Follower) -> None:
            if follower.seq is not None and follower.seq < seq:
                metrics.sweep_finds.inc()
                behind.append(follower)
            if not follower.offer(kind, seq, frame):
                self._catch_up(session_id)

        behind: list[Follower] = []
        followers = self._of(session_id)
        self._each(followers, offer)
        if kind == TERMINAL:
            self._note_end(followers, seq)
        if behind:
            self._handed[kind] += len(behind)
            self._measure(frame, time.monotonic())

    # -- when pub/sub lies -------------------------------------------------------------

    def _sweep_now(self) -> None:
        self._sweep_wanted.set()

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self._sweep()
            except Unavailable as error:
                log.warning("The sweep could not read the news: %s", error.detail)
            except Exception:
                log.exception("The sweep failed and will be tried again")
            await self._rest()

    async def _rest(self) -> None:
        """Until the next sweep is due.

        Redis may go away in the middle of a long rest, so look up every second.
        """
        end = time.monotonic() + self._config.sweep_seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, SWEEP_WITHOUT_REDIS_SECONDS)):
                    await self._sweep_wanted.wait()
            if self._sweep_wanted.is_set() or not self.delivers:
                break
        self._sweep_wanted.clear()

    async def _sweep(self) -> None:
        """Feed in what was committed since the last sweep.

        Costs what happened, not who is connected.
        """
        if self._cursor is None:
            cursor = await self._database_feed.cursor()
            for batch in self._batches():  # what was committed before is no news to the cursor
                await self._look_at(batch)
            self._cursor = cursor
            return
        news = await self._database_feed.page(self._cursor)
        link = self._sessions.access().file
        for event in news.events:
            if self._channel(event.session_id) in self._followers:
                self._feed(event.session_id, event_message(event, link))
        if news.tombstones:
            self._end_gone(dict(news.tombstones))
        self._cursor = news.cursor

    async def _check(self) -> None:
        """Look at every followed session itself.

        Finds what no news told: a process that was cut off from the database for longer
        than an erasure is remembered learns of it only here.
        """
        batches = self._batches()
        pause = CHECK_SECONDS / max(1, len(batches))
        for batch in batches:
            await asyncio.sleep(pause)
            await self._look_at(batch)
        if not batches:
            await asyncio.sleep(pause)

    def _batches(self) -> list[list[str]]:
        ids = [next(iter(followers)).session_id for followers in self._followers.values()]
        return [ids[start : start + CHECK_BATCH] for start in range(0, len(ids), CHECK_BATCH)]

    async def _look_at(self, session_ids: Collection[str]) -> None:
        newest = await self._reading.seqs(session_ids)
        behind: dict[str, int] = {}
        for session_id in session_ids:
            seqs = [follower.seq for follower in self._of(session_id) if follower.seq is not None]
            seq = newest.get(session_id)
            if seq is None:
                if any(follower.let_in for follower in self._of(session_id)):  # else it may never have been
                    self._end(session_id, self._probable_reason(session_id))
            elif seqs and min(seqs) < seq:
                behind[session_id] = min(seqs)
        if behind:
            link = self._sessions.access().file
            for session_id, story in (await self._reading.many_with_events(behind, min(behind.values()))).items():
                for event in story.events:
                    self._feed(session_id, event_message(event, link))

    def _probable_reason(self, session_id: str) -> GoneReason:
        """Why a session is no longer there, when nobody remembers: by the age in its id
        (RFC 9562 section 5.7). A retry expires with its original, so of an expired one
        this may say that it was deleted.
        """
        age_seconds = self._clock.now() - uuid.UUID(session_id).int / 2**80 / 1000
        return GoneReason.EXPIRED if age_seconds >= self._config.retention_seconds else GoneReason.DELETED

    def _end(self, session_id: str, reason: GoneReason) -> None:
        self.receive(self._channel(session_id), gone_message(reason))

    def _end_gone(self, gone: dict[str, GoneReason]) -> None:
        for id_hash, reason in gone.items():
            session_id = self._gone.get(_beginning(id_hash))
            if session_id is not None and id_hash in self._signer.gone_hashes(session_id):
                self._end(session_id, reason)

    async def _probe(self) -> None:
        """A connection can be up and deaf, also because Redis knows nothing of it (any
        more). What was published to oneself and did not come back proves it.
        """
        await asyncio.shield(self._subscriber.subscribe(self._probe_channel))
        connection = self._subscriber.connections if self._subscriber.up else None
        probe = f"{secrets.token_hex(4)} {time.monotonic()}".encode()
        sent = await self._bus.probe(self._probe_channel.decode(), probe)
        await asyncio.sleep(PROBE_SECONDS)
        if sent and self._probe_came_back == probe:
            return
        self._probe_delay_seconds = None
        if sent is not None and self._subscriber.up and connection == self._subscriber.connections:
            log.warning("The subscriber connection to Redis is deaf; connecting again")
            self._subscriber.reconnect()

    # -- for all at once ---------------------------------------------------------------

    def _everybody(self) -> list[Follower]:
        return [follower for followers in self._followers.values() for follower in followers]

    def _note_waiting(self, session_id: str, frame: bytes) -> None:
        """A transition: either the session waits (again), or no longer."""
        if b'"status":"created"' in frame:
            self._waiting.setdefault(session_id, None)
        else:
            self._waiting.pop(session_id, None)

    async def _tell_waiting(self) -> None:
        """Tell those who wait where they stand, when it has changed.

        Spread over the time: a thousand at once would take 20 ms, in which no other
        news goes out.
        """
        places = await self._sessions.waiting() if self._waiting else {}
        if places is self._places:
            await asyncio.sleep(WAITING_SECONDS / 4)
            return
        self._places = places
        due = [
            (session_id, place)
            for session_id, told in self._waiting.items()
            if (place := places.get(session_id)) is not None and worth_telling(told, place)
        ]
        batches = [due[start : start + TELL_BATCH] for start in range(0, len(due), TELL_BATCH)]
        for batch in batches:
            at = timestamp(datetime.fromtimestamp(self._clock.now(), UTC))
            for session_id, place in batch:
                if session_id in self._waiting:  # else it was taken meanwhile
                    self._waiting[session_id] = place
                    self._tell_place(session_id, place, at)
            await asyncio.sleep(WAITING_SECONDS / len(batches))
        if not batches:
            await asyncio.sleep(WAITING_SECONDS)

    def _tell_place(self, session_id: str, place: Waiting, at: str) -> None:
        frames: dict[int, bytes] = {}  # nearly always one, the same for all

        def tell(follower: Follower) -> None:
            seq = follower.seq
            if seq is None:
                return
            if seq not in frames:
                frames[seq] = encode(
                    ProgressFrame(session_id, seq, None, None, place.eta_seconds, at, place.queue_position)
                )
            follower.progress(frames[seq])

        self._each(self._of(session_id), tell)

    async def _ping(self) -> None:
        await asyncio.sleep(self._config.ping_seconds / len(self._wheel))
        self._turn_wheel()

    def _turn_wheel(self) -> None:
        """Ping one slot's followers, and let those go that have not answered in time:
        each has its turn once a period. All at once, 10,000 pings would hold up every
        other news for 0.1 s.
        """
        slots = len(self._wheel)
        self._turn = (self._turn + 1) % slots
        asked = self._wheel[(self._turn - int(ANSWER_SHARE * slots)) % slots]
        self._each(tuple(asked), lambda follower: follower.overdue())
        due = tuple(self._wheel[self._turn])
        if not due:
            return
        frame = encode(PingFrame(timestamp(datetime.fromtimestamp(self._clock.now(), UTC))))
        oldest = time.monotonic() - self._config.socket_seconds

        def ping(follower: Follower) -> None:
            if follower.joined_at < oldest:
                follower.too_old(random.randint(100, 5000))
            elif follower.seq is not None:  # the first frame is the snapshot
                follower.ping(frame)

        self._each(due, ping)

    def drain(self) -> int:
        """Tell everybody that this server stops; spread their return over 0.5 ms a
        client and at least a second, from when another process can be there
        (:data:`RESTART_MS`). Who comes earlier is refused and then waits by its own
        back-off.

        How many were told.
        """
        self.draining = True
        everybody = self._everybody()
        spread_ms = max(1000.0, 0.5 * len(everybody))
        turns = itertools.count()
        self._each(
            everybody, lambda follower: follower.drain(RESTART_MS + int(spread_ms * next(turns) / len(everybody)))
        )
        return len(everybody)

    def return_ms(self) -> int:
        """When a single client may come back to a server that stops."""
        return RESTART_MS + random.randint(0, 1000)


def _beginning(id_hash: str) -> int:
    """The first 64 bits: 36 bytes of memory instead of 113."""
    return int(id_hash[:16], 16)


def _unix(frame: bytes) -> float:
    return datetime.fromisoformat(msgspec.json.decode(frame, type=_End).at).timestamp()
