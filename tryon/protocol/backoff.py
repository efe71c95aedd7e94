"""How clients wait and give up: the numbers of every client, in Python and in
``tryon.js``.

All times in seconds.
"""

from __future__ import annotations

from typing import Final

TRANSPORTS: Final = ("ws", "sse", "long-poll", "poll")
"""The ladder, best first."""

OPEN_SECONDS: Final = 5.0
"""From the attempt to connect to the first frame; later counts as lost."""

STEADY_SECONDS: Final = 5.0
"""A connection that lived that long resets the back-off."""

FIRST_SECONDS: Final = 0.5
"""Upper bound of the first pause; it doubles with each failure (full jitter)."""

MOST_SECONDS: Final = 30.0
"""Upper bound of any pause."""

WAIT_SECONDS: Final = 25
"""``wait`` of a long poll: below the 30 s after which proxies like to cut."""

POLL_SECONDS: Final = 2.0
"""Between plain polls, unless ``Retry-After`` says otherwise."""

WATCHDOG_PERIODS: Final = 2.2
"""Ping periods without any frame after which a connection counts as dead."""

PROBE_SECONDS: Final = 3.0
"""A connection that may have slept must answer a ``sync`` within this time."""

CLIMB_FIRST_SECONDS: Final = 15.0
CLIMB_MOST_SECONDS: Final = 300.0
"""Until better transports are tried again: at first, and at most."""

TRIES: Final = 3
"""Attempts at a transport that has worked or asked for patience, before the next lower
one.
"""
