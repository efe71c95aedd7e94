"""Recovery: followers are given from the database what pub/sub did not bring.

Theory of operation
-------------------

Redis pub/sub delivers at most once, so nothing here trusts it. The database holds every
transition, numbered per session (``seq``) and ordered across sessions by commit. Four
nets read it, each for what passes the one above:

1. *Catch up.* A follower that is offered ``seq`` 5 while it has 3 reports a hole. One
   task per session reads everything after the ``seq`` of the follower that is furthest
   behind and offers it to all followers. Each drops what it has, so offering twice does
   no harm. A hole that is reported while the task reads or offers makes it read once
   more: a new follower may be further behind than the one it read for.
2. *Sweep.* Every ``sweep_seconds``, and at once after a reconnect, it reads the events
   committed since the last sweep (a cursor in commit order) and feeds those of
   followed sessions. The cost is what happened, not how many clients are connected,
   and a page of it at a time: after a full page the next sweep follows at once.
   While the probe does not come back, the sweep runs every second: it then carries all
   events. So it does after a sweep that failed. The first sweep has no cursor: it takes
   one and then checks every session, because earlier commits lie before that cursor.
3. *Tombstones.* An erased session has no events any more. The sweep also reads the
   tombstones left since the last one. They hold an HMAC of the id, not the id; the
   registry knows which followed session would leave which.
4. *Check.* Once a minute every followed session's ``seq`` is compared with its
   followers', in parts spread over the minute. This finds what nothing told: a process
   cut off from the database for longer than tombstones are kept. A session without a
   row was erased; its age tells whether it expired or was deleted. A session belongs to
   the same part every time, so its first check is never more than a minute away. A
   follower that is not released yet holds the newest event and compares it itself.

All four end in :meth:`Recovery._feed` or :meth:`Recovery._end`, which offer frames as
the hub does for messages from Redis. The order of offers is free: the rule in
:mod:`server.web.push.follower` drops repeats and reports holes. Feeding is a plain
function without an await, so no message can come between two followers.

An unavailable database only delays recovery: the sweep keeps its cursor and reads on
from there when the database is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.feed import Cursor, Feed
from server.adapters.database.reading import SessionReader
from server.domain.bus_message import (
    GONE,
    PREFIX_BYTES,
    TERMINAL,
    WAITING,
    event_message,
    gone_message,
    parse_prefix,
)
from server.domain.session import time_of_id
from server.sessions.access import AccessIssuer
from server.system.clock import Clock
from server.telemetry import metrics
from server.web.push.deliveries import DeliveryLog
from server.web.push.follower import Follower
from server.web.push.followers import Followers
from server.web.push.meter import PushMeter
from server.web.push.owners import Owners
from server.web.push.probe import DeliveryProbe
from server.web.push.queue_news import QueueNews
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import GoneReason

log = logging.getLogger("tryon.hub")

SWEEP_WITHOUT_REDIS_SECONDS: Final = 1.0
"""Time between two sweeps while Redis does not deliver."""

FAILED_SWEEP_SECONDS: Final = 1.0
"""Maximum time after which a sweep that failed is tried again."""

CHECK_SECONDS: Final = 60.0
"""Maximum time from joining to the first check, and between two checks of a session."""

CHECK_PARTS: Final = 16
"""Number of parts of a check, by the last hexadecimal digit of the session's id."""

CHECK_BATCH: Final = 100
"""Sessions per statement of a check; 400 keep the loop busy for 7 ms."""

_SWEPT: Final = metrics.sweeps.labels("done")
_SWEEP_FAILED: Final = metrics.sweeps.labels("failed")


class Recovery:
    """The position in the database's feed, and the reads that are under way."""

    __slots__ = (
        "_access",
        "_catching_up",
        "_check_part",
        "_clock",
        "_cursor",
        "_database_clock",
        "_database_feed",
        "_deliveries",
        "_followers",
        "_holes",
        "_meter",
        "_owners",
        "_probe",
        "_queue_news",
        "_reader",
        "_retention_seconds",
        "_stopped",
        "_sweep_seconds",
        "_sweep_wanted",
    )

    def __init__(
        self,
        *,
        sweep_seconds: float,
        sweep_wanted: asyncio.Event,
        retention_seconds: float,
        database_clock: DatabaseClock,
        reader: SessionReader,
        feed: Feed,
        access: AccessIssuer,
        followers: Followers,
        owners: Owners,
        probe: DeliveryProbe,
        queue_news: QueueNews,
        deliveries: DeliveryLog,
        meter: PushMeter,
        clock: Clock,
    ) -> None:
        self._sweep_seconds = sweep_seconds
        self._sweep_wanted = sweep_wanted
        """Set to let the next sweep begin at once."""
        self._retention_seconds = retention_seconds
        self._database_clock = database_clock
        self._reader = reader
        self._database_feed = feed
        self._access = access
        self._followers = followers
        self._owners = owners
        self._probe = probe
        self._queue_news = queue_news
        self._deliveries = deliveries
        self._meter = meter
        self._clock = clock
        self._cursor: Cursor | None = None
        self._catching_up: dict[str, asyncio.Task[None]] = {}
        self._holes: set[str] = set()
        """Sessions with a hole that was reported after the last read began."""
        self._check_part = 0
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Recovery cursor={self._cursor} catching_up={len(self._catching_up)}>"

    async def stop(self) -> None:
        """Cancel the reads that are under way and wait for their end; begin no more."""
        self._stopped = True
        tasks = tuple(self._catching_up.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- catch up ----------------------------------------------------------------------

    def catch_up(self, session_id: str) -> None:
        """Read what is missing after a hole, once for all followers of the session."""
        if self._stopped:
            return
        self._holes.add(session_id)
        if session_id not in self._catching_up:
            metrics.gaps.inc()
            task = asyncio.create_task(self._read_missing(session_id), name=f"catch-up {session_id}")
            self._catching_up[session_id] = task

    async def _read_missing(self, session_id: str) -> None:
        before: int | None = None
        try:
            while session_id in self._holes:
                self._holes.discard(session_id)
                seqs = (follower.seq for follower in self._followers.of(session_id))
                behind = min((seq for seq in seqs if seq is not None), default=None)
                if behind is None or behind == before:
                    return  # no follower is left, or the database lacks the event too
                story = await self._reader.with_events(session_id, behind)
                link = self._access.issue().file
                for event in story.events if story else ():
                    self._feed(session_id, event_message(event, link))
                before = behind
        except Unavailable:
            pass  # the sweep reads it when the database is back
        except Exception:
            log.exception("Reading the missing events of session %s failed", session_id)
        finally:
            self._holes.discard(session_id)
            del self._catching_up[session_id]

    def _feed(self, session_id: str, message: bytes) -> None:
        """Offer an event from the database, in order, so no follower meets a hole."""
        kind, seq = parse_prefix(message)
        frame = message[PREFIX_BYTES:]

        def offer(follower: Follower) -> None:
            if follower.seq is not None and follower.seq < seq:
                metrics.sweep_finds.inc()
                behind.append(follower)
            if not follower.offer(kind, seq, frame):
                self.catch_up(session_id)

        behind: list[Follower] = []
        followers = self._followers.of(session_id)
        self._followers.notify(followers, offer)
        self._queue_news.note(session_id, seq, waits=kind == WAITING)
        if kind == TERMINAL:
            self._deliveries.note_offered(followers, seq)
        if behind:
            self._meter.handed[kind] += len(behind)
            self._meter.measure(frame, self._clock.monotonic())

    def _end(self, session_id: str, reason: GoneReason) -> None:
        """Offer the end of an erased session."""
        frame = gone_message(reason)[PREFIX_BYTES:]
        followers = self._followers.of(session_id)
        self._followers.notify(followers, lambda follower: follower.offer(GONE, 0, frame))
        self._meter.handed[GONE] += len(followers)

    # -- sweep -------------------------------------------------------------------------

    async def run_sweeps(self) -> None:
        """Sweep for ever; a sweep that fails is soon followed by the next one."""
        while True:
            rest_seconds = self._sweep_seconds
            try:
                await self._sweep()
                _SWEPT.inc()
            except Exception as error:
                _SWEEP_FAILED.inc()
                rest_seconds = min(rest_seconds, FAILED_SWEEP_SECONDS)
                if isinstance(error, Unavailable):
                    log.warning("The sweep could not read the database: %s", error.detail)
                else:
                    log.exception("The sweep failed and will be tried again")
            await self._rest(rest_seconds)

    async def _rest(self, seconds: float) -> None:
        """Wait until the next sweep is due.

        Redis may become unavailable in the middle of a long rest, so look every second.
        """
        end = self._clock.monotonic() + seconds
        while (left := end - self._clock.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, SWEEP_WITHOUT_REDIS_SECONDS)):
                    await self._sweep_wanted.wait()
            if self._sweep_wanted.is_set() or not self._probe.delivers:
                break
        self._sweep_wanted.clear()

    async def _sweep(self) -> None:
        """Feed what was committed since the last sweep: one page of it.

        If there is more, the next sweep follows at once.
        """
        if self._cursor is None:
            cursor = await self._database_feed.cursor()
            for batch in _batches(self._followers.session_ids()):  # earlier commits lie before the cursor
                await self._check(batch)
            await self._owners.check_all()
            self._cursor = cursor
            return
        # A session that gets its first follower meanwhile is read by its own join.
        page = await self._database_feed.page(self._cursor, follows=self._followers.follows)
        await self._owners.created(page.created)
        link = self._access.issue().file
        for event in page.events:
            if self._followers.follows(event.session_id):
                self._feed(event.session_id, event_message(event, link))
        if page.tombstones:
            self._end_erased(dict(page.tombstones))
        self._cursor = page.cursor
        if page.more:
            self._sweep_wanted.set()

    def _end_erased(self, tombstones: dict[str, GoneReason]) -> None:
        for id_hash, reason in tombstones.items():
            session_id = self._followers.with_tombstone(id_hash)
            if session_id is not None:
                self._end(session_id, reason)

    # -- check -------------------------------------------------------------------------

    async def next_check(self) -> None:
        """Check the next part of the followed sessions, spread over the part's time.

        Its last session waits a part longer than its first, so that each part has its
        share of one part more. A part that fails is checked again.
        """
        digit = f"{self._check_part:x}"
        ids = [each for each in self._followers.session_ids() if each[-1] == digit]
        batches = _batches(ids)
        pause = CHECK_SECONDS / (CHECK_PARTS + 1) / max(1, len(batches))
        for batch in batches:
            await self._check(batch)
            await asyncio.sleep(pause)
        if not batches:
            await asyncio.sleep(pause)
        self._check_part = (self._check_part + 1) % CHECK_PARTS

    async def _check(self, session_ids: Collection[str]) -> None:
        newest = await self._reader.seqs(session_ids)
        behind: dict[str, int] = {}
        for session_id in session_ids:
            followers = self._followers.of(session_id)
            seqs = [follower.seq for follower in followers if follower.seq is not None]
            seq = newest.get(session_id)
            if seq is None:
                self._end(session_id, self.probable_reason(session_id))
                continue
            if len(seqs) < len(followers):
                seqs.append(seq - 1)  # of the ones that are not released yet
            if seqs and min(seqs) < seq:
                behind[session_id] = min(seqs)
        if behind:
            link = self._access.issue().file
            for session_id, story in (await self._reader.many_with_events(behind, min(behind.values()))).items():
                for event in story.events:
                    self._feed(session_id, event_message(event, link))

    def probable_reason(self, session_id: str) -> GoneReason:
        """Return why a session without a tombstone was erased, by the age in its id.

        The id is a UUIDv7 (RFC 9562 section 5.7). A retry expires with its original, so
        an expired one may be reported as deleted.
        """
        age_seconds = self._database_clock.now() - time_of_id(session_id)
        return GoneReason.EXPIRED if age_seconds >= self._retention_seconds else GoneReason.DELETED


def _batches(session_ids: list[str]) -> list[list[str]]:
    return [session_ids[start : start + CHECK_BATCH] for start in range(0, len(session_ids), CHECK_BATCH)]
