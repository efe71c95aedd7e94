"""Places in the queue, announced to the followers of waiting sessions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.domain.queue_place import Waiting, worth_announcing
from server.domain.session import timestamp
from server.sessions.queue_places import WAITING_SECONDS, QueuePlaces
from server.web.push.followers import Followers
from tryon.protocol.frames import ProgressFrame, encode

ANNOUNCE_BATCH: Final = 20
"""Sessions whose place is announced at once; 1,000 would hold up events for 20 ms."""


@dataclass(slots=True)
class _Wait:
    """The transition after which a session waits, and the place last announced."""

    seq: int
    announced: Waiting | None


class QueueNews:
    """The followed sessions that wait, each with the place last announced to it."""

    __slots__ = ("_database_clock", "_followers", "_places", "_queue_places", "_waiting")

    def __init__(self, *, followers: Followers, queue_places: QueuePlaces, database_clock: DatabaseClock) -> None:
        self._followers = followers
        self._queue_places = queue_places
        self._database_clock = database_clock
        self._waiting: dict[str, _Wait] = {}
        self._places: dict[str, Waiting] = {}
        """The queue as it was at the last announcement."""

    def __repr__(self) -> str:
        return f"<QueueNews waiting={len(self._waiting)}>"

    def note(self, session_id: str, seq: int, *, waits: bool) -> None:
        """Remember whether the session waits, when ``seq`` was offered to followers.

        Ignored if a follower has a later transition: then this one was read before it.
        A session without followers is not remembered: the last one may have left while
        the transition was read, or because it could not be delivered.
        """
        known = self._waiting.get(session_id)
        if known is None and not waits:
            return
        followers = self._followers.of(session_id)
        if any(follower.seq is not None and follower.seq > seq for follower in followers):
            return
        if waits and followers:
            self._waiting[session_id] = _Wait(seq, None if known is None else known.announced)
        else:
            self._waiting.pop(session_id, None)

    def forget(self, session_id: str) -> None:
        """Forget a session whose last follower has left."""
        self._waiting.pop(session_id, None)

    def announced(self, session_id: str) -> Waiting | None:
        """Return the place last announced to a waiting session's followers, or None."""
        wait = self._waiting.get(session_id)
        return None if wait is None else wait.announced

    async def next_places(self) -> None:
        """Announce the places that have changed, spread over WAITING_SECONDS."""
        places = await self._queue_places.current() if self._waiting else {}
        if places is self._places:
            await asyncio.sleep(WAITING_SECONDS / 4)
            return
        self._places = places
        due = [
            (session_id, place)
            for session_id, wait in self._waiting.items()
            if (place := places.get(session_id)) is not None and worth_announcing(wait.announced, place)
        ]
        batches = [due[start : start + ANNOUNCE_BATCH] for start in range(0, len(due), ANNOUNCE_BATCH)]
        for batch in batches:
            at = timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC))
            for session_id, place in batch:
                if (wait := self._waiting.get(session_id)) is not None:  # a worker may have claimed it meanwhile
                    wait.announced = place
                    self.announce(session_id, place, at)
            await asyncio.sleep(WAITING_SECONDS / len(batches))
        if not batches:
            await asyncio.sleep(WAITING_SECONDS)

    def announce(self, session_id: str, place: Waiting, at: str) -> None:
        """Send a place to the followers of one waiting session as a progress frame.

        One that has not been given the transition after which it waits gets none.
        """
        waits_since = self._waiting[session_id].seq
        frame = encode(ProgressFrame(session_id, waits_since, None, None, place.eta_seconds, at, place.queue_position))
        followers = [follower for follower in self._followers.of(session_id) if follower.seq == waits_since]
        self._followers.notify(followers, lambda follower: follower.progress(frame))
