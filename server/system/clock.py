"""The one clock: every part of the product asks it, so a test can move the time."""

from __future__ import annotations

import time
from typing import Final, Protocol

_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Three readings of time, all in seconds.

    Implementations are cheap and never raise.
    """

    def wall(self) -> float:
        """Return Unix time; it may jump when someone sets the machine's clock."""

    def monotonic(self) -> float:
        """Return time that no user can set.

        It may stand still while the machine sleeps.
        """

    def steady(self) -> float:
        """Return time that no user can set and that goes on while the machine sleeps.

        As ``monotonic`` where the system has no such clock.
        """


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def steady(self) -> float:
        """Return ``CLOCK_BOOTTIME`` on Linux, else ``CLOCK_MONOTONIC``."""
        return time.clock_gettime(_STEADY)
