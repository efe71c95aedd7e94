"""The ping wheel: each follower is pinged, and its answer due, once a period.

All followers at once would hold up every event: 10,000 pings take 0.1 s.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.domain.session import timestamp
from server.system.clock import Clock
from server.system.randomness import Randomness
from server.web.push.follower import Follower
from server.web.push.followers import Followers
from tryon.protocol.frames import PingFrame, encode

SLOT_SECONDS: Final = 0.25
"""Target time between two slots of the wheel, in seconds."""

MAX_SLOTS: Final = 100
"""Maximum slots of the wheel; a long period has longer slots."""

ANSWER_SHARE: Final = 0.75
"""Share of the period in which a client must answer a ping.

A client that falls silent right after an answer is disconnected 1.75 periods later.
"""


class PingWheel:
    """The followers by the part of the period in which each is pinged."""

    __slots__ = (
        "_clock",
        "_database_clock",
        "_followers",
        "_period_seconds",
        "_randomness",
        "_slots",
        "_socket_seconds",
        "_turn",
    )

    def __init__(
        self,
        *,
        period_seconds: float,
        socket_seconds: float,
        followers: Followers,
        database_clock: DatabaseClock,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._period_seconds = period_seconds
        self._socket_seconds = socket_seconds
        self._followers = followers
        self._database_clock = database_clock
        self._clock = clock
        self._randomness = randomness
        slots = max(4, min(MAX_SLOTS, round(period_seconds / SLOT_SECONDS)))
        self._slots: list[dict[Follower, None]] = [{} for _ in range(slots)]
        self._turn = 0

    def __repr__(self) -> str:
        return f"<PingWheel slots={len(self._slots)} followers={sum(map(len, self._slots))}>"

    def add(self, follower: Follower) -> None:
        """Give a follower a random slot; its maximum age counts from now."""
        follower.joined_at = self._clock.monotonic()
        follower.slot = self._randomness.randint(0, len(self._slots) - 1)
        self._slots[follower.slot][follower] = None

    def remove(self, follower: Follower) -> None:
        """Take a follower off the wheel; return quietly if it is not on it."""
        self._slots[follower.slot].pop(follower, None)

    async def next_turn(self) -> None:
        """Wait for the time of the next slot, then turn to it."""
        await asyncio.sleep(self._period_seconds / len(self._slots))
        self.turn()

    def turn(self) -> None:
        """Ping the next slot's followers; disconnect the ones that owe an answer.

        An earlier slot's followers were pinged :data:`ANSWER_SHARE` of a period ago.
        """
        slots = len(self._slots)
        self._turn = (self._turn + 1) % slots
        asked = self._slots[(self._turn - int(ANSWER_SHARE * slots)) % slots]
        self._followers.notify(tuple(asked), lambda follower: follower.overdue())
        due = tuple(self._slots[self._turn])
        if not due:
            return
        frame = encode(PingFrame(timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC))))
        oldest = self._clock.monotonic() - self._socket_seconds

        def ping(follower: Follower) -> None:
            if follower.joined_at < oldest:
                follower.too_old(self._followers.return_ms())
            elif follower.seq is not None:  # the first frame is the snapshot
                follower.ping(frame)

        self._followers.notify(due, ping)
