"""The waiting times and attempts of every client, in Python and in ``tryon.js``.

A client climbs down a ladder of transports as far as it must, and up again when it can.
Times are in seconds. The tests hold ``static/tryon.js`` to these numbers.
"""

from __future__ import annotations

from typing import Final

TRANSPORTS: Final = ("ws", "sse", "long-poll", "poll")
"""The ladder of transports, best first."""

OPEN_SECONDS: Final = 5.0
"""Longest time from the attempt to connect to the first frame."""

STEADY_SECONDS: Final = 5.0
"""Lifetime after which a connection resets the back-off."""

FIRST_SECONDS: Final = 0.5
"""Upper bound of the first pause; it doubles with each failure (full jitter)."""

MOST_SECONDS: Final = 30.0
"""Upper bound of any pause."""

WAIT_SECONDS: Final = 25
"""``wait`` of a long poll: below the 30 s after which proxies like to cut."""

POLL_SECONDS: Final = 2.0
"""Pause between plain polls, unless ``Retry-After`` says otherwise."""

WATCHDOG_PERIODS: Final = 2.2
"""Ping periods without a frame after which a connection counts as dead."""

PROBE_SECONDS: Final = 3.0
"""Longest time to the answer to a ``sync``, on a connection that may have slept."""

CLIMB_FIRST_SECONDS: Final = 15.0
"""First pause before better transports are tried again; failures double it."""

CLIMB_MOST_SECONDS: Final = 300.0
"""Upper bound of the pause before better transports are tried again."""

TRIES: Final = 3
"""Attempts at a transport that has worked or asked for a pause, before the next one."""

_MOST_DOUBLINGS: Final = 64
"""Doublings after which any bound is reached: a float overflows after 1,023."""


def doubled(first: float, most: float, times: int) -> float:
    """Return ``first`` doubled that many times, at most ``most``."""
    return min(most, first * 2.0 ** min(times, _MOST_DOUBLINGS))
