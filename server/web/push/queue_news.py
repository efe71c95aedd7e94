"""Places in the queue, announced to the followers of waiting sessions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.domain.queue_place import Waiting, worth_announcing
from server.domain.session import timestamp
from server.sessions.queue_places import WAITING_SECONDS, QueuePlaces
from server.web.push.follower import Follower
from server.web.push.followers import Followers
from tryon.protocol.frames import ProgressFrame, encode

ANNOUNCE_BATCH: Final = 20
"""Sessions whose place is announced at once; 1,000 would hold up events for 20 ms."""


class QueueNews:
    """The followed sessions that wait, each with the place last announced to it."""

    __slots__ = ("_database_clock", "_followers", "_places", "_queue_places", "_waiting")

    def __init__(self, *, followers: Followers, queue_places: QueuePlaces, database_clock: DatabaseClock) -> None:
        self._followers = followers
        self._queue_places = queue_places
        self._database_clock = database_clock
        self._waiting: dict[str, Waiting | None] = {}
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
        if waits is (session_id in self._waiting):
            return
        followers = self._followers.of(session_id)
        if any(follower.seq is not None and follower.seq > seq for follower in followers):
            return
        if waits and followers:
            self._waiting[session_id] = None
        else:
            self._waiting.pop(session_id, None)

    def forget(self, session_id: str) -> None:
        """Forget a session whose last follower has left."""
        self._waiting.pop(session_id, None)

    def announced(self, session_id: str) -> Waiting | None:
        """Return the place last announced to a waiting session's followers, or None."""
        return self._waiting.get(session_id)

    async def next_places(self) -> None:
        """Announce the places that have changed, spread over WAITING_SECONDS."""
        places = await self._queue_places.current() if self._waiting else {}
        if places is self._places:
            await asyncio.sleep(WAITING_SECONDS / 4)
            return
        self._places = places
        due = [
            (session_id, place)
            for session_id, announced in self._waiting.items()
            if (place := places.get(session_id)) is not None and worth_announcing(announced, place)
        ]
        batches = [due[start : start + ANNOUNCE_BATCH] for start in range(0, len(due), ANNOUNCE_BATCH)]
        for batch in batches:
            at = timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC))
            for session_id, place in batch:
                if session_id in self._waiting:  # a worker may have claimed it meanwhile
                    self._waiting[session_id] = place
                    self.announce(session_id, place, at)
            await asyncio.sleep(WAITING_SECONDS / len(batches))
        if not batches:
            await asyncio.sleep(WAITING_SECONDS)

    def announce(self, session_id: str, place: Waiting, at: str) -> None:
        """Send a place to the followers of one session as a progress frame."""
        frames: dict[int, bytes] = {}  # by seq: nearly always one, the same bytes for all

        def send(follower: Follower) -> None:
            seq = follower.seq
            if seq is None:
                return
            if seq not in frames:
                frames[seq] = encode(
                    ProgressFrame(session_id, seq, None, None, place.eta_seconds, at, place.queue_position)
                )
            follower.progress(frames[seq])

        self._followers.notify(self._followers.of(session_id), send)
