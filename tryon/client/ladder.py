"""The choice of the next transport and of the pause before it, without I/O.

A follower climbs down from the best transport as far as the network makes it, and tries
the better ones again from time to time. The rules are those of ``tryon.js``, the
numbers those of :mod:`tryon.protocol.backoff`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tryon.client.connection import Lost
from tryon.protocol.backoff import (
    CLIMB_FIRST_SECONDS,
    CLIMB_MOST_SECONDS,
    FIRST_SECONDS,
    MOST_SECONDS,
    STEADY_SECONDS,
    TRANSPORTS,
    TRIES,
    doubled,
)
from tryon.protocol.close_codes import AT_ONCE, BROKEN, may_reconnect
from tryon.protocol.errors import CODES

_FINAL: Final = frozenset({401, 404})
"""HTTP statuses that end a follower: the session refuses this client, or is gone."""


def is_final(transport: str, lost: Lost) -> bool:
    """Return whether the session is gone, or refuses this client.

    An HTTP status in a WebSocket handshake says neither: our server refuses a session
    by a close code, so the status comes from a proxy that knows no WebSockets. A 400 is
    final with a code of the protocol, since the same request would fail again.
    """
    if not lost.refused:
        return not may_reconnect(lost.code)
    return transport != "ws" and (lost.code in _FINAL or (lost.code == 400 and lost.reason in CODES))


@dataclass(frozen=True, slots=True)
class Step:
    """The next connection: its transport, and the pause before it in seconds."""

    transport: str
    pause: float


class Ladder:
    """Experience with each transport on the way to one session."""

    def __init__(self, transports: Sequence[str], chance: random.Random) -> None:
        """Raise ValueError without a known transport."""
        self._rungs = [each for each in TRANSPORTS if each in transports]
        if not self._rungs or set(transports) - set(TRANSPORTS):
            raise ValueError(f"transports must be some of {', '.join(TRANSPORTS)}, not {tuple(transports)}")
        self._chance = chance
        self._proven: set[str] = set()
        self._attempts: dict[str, int] = {}
        self._failures = 0
        self._climbs = 0

    def __repr__(self) -> str:
        return f"<Ladder {' > '.join(self._rungs)} failures={self._failures} climbs={self._climbs}>"

    @property
    def best(self) -> str:
        """Return the best transport that is not ruled out."""
        return self._rungs[0]

    def worked(self, transport: str) -> None:
        """Note that a transport works on this network."""
        self._proven.add(transport)
        self._attempts[transport] = 0

    def after(self, transport: str, lost: Lost, *, worked: bool, live_seconds: float) -> Step:
        """Return the next step after a connection was lost.

        ``worked``: this connection did (:meth:`worked`). ``live_seconds``: since its
        first answer; 0 without one.
        """
        self._rule_out(transport, lost)
        self._failures = 1 if live_seconds >= STEADY_SECONDS else self._failures + 1
        proven = transport in self._proven
        lower = next((each for each in self._rungs if TRANSPORTS.index(each) > TRANSPORTS.index(transport)), None)
        pause = self._pause(lost)
        # A proxy may swallow the event streams of a server that is there: try lower.
        reached = lost.reached or (transport == "sse" and lower is not None)
        if not worked and reached:
            self._attempts[transport] = self._attempts.get(transport, 0) + 1
        # A server that cannot be reached at all is not asked in four ways.
        next_one = transport if proven or reached else self._rungs[0]
        if next_one not in self._rungs:
            return Step(lower or self._rungs[0], pause)
        patience = TRIES if proven or lost.retry_after is not None else 1
        if not worked and reached and lower is not None and self._attempts[transport] >= patience:
            return Step(lower, lost.retry_after or 0.0)
        return Step(next_one, pause)

    def better(self, than: str, after: str | None = None) -> str | None:
        """Return the best transport above ``than``, but below ``after``."""
        start = TRANSPORTS.index(after) + 1 if after is not None else 0
        end = TRANSPORTS.index(than)
        return next((each for each in self._rungs if start <= TRANSPORTS.index(each) < end), None)

    def failed_climb(self, transport: str, lost: Lost) -> None:
        """Note that a better transport was tried beside the present one in vain."""
        self._rule_out(transport, lost)

    def climb_pause(self) -> float:
        """Return the seconds until better transports are tried, longer each time."""
        bound = doubled(CLIMB_FIRST_SECONDS, CLIMB_MOST_SECONDS, self._climbs)
        self._climbs += 1
        return bound * self._chance.uniform(0.75, 1.25)

    def climbed(self) -> None:
        """Note that a better transport has taken over."""
        self._climbs = 0

    def _rule_out(self, transport: str, lost: Lost) -> None:
        if lost.code in BROKEN and len(self._rungs) > 1 and transport in self._rungs:
            self._rungs.remove(transport)

    def _pause(self, lost: Lost) -> float:
        if lost.retry_after is not None:
            return lost.retry_after
        if lost.code in AT_ONCE and self._failures == 1:
            return 0.0
        return self._chance.uniform(0.0, doubled(FIRST_SECONDS, MOST_SECONDS, self._failures - 1))
