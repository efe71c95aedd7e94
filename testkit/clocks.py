"""Clocks that a test sets: one inside this process, or one for a whole process.

The latter by libfaketime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FAKETIME: Final = {
    "FAKETIME_NO_CACHE": "1",  # a clock that is set is read at once
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    # or else it mistakes the time limit of a thread that waits for Python's lock,
    # which then spins and keeps every other thread out for seconds
    "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    # or else touching a file stamps it with the process's time: the kernel does that,
    # and its clock (a file server's) is another
    "FAKE_UTIME": "1",
}
"""Environment in which the time of day alone is a process's own."""


def own_clock() -> dict[str, str]:
    """Return the environment that gives a process a clock of its own.

    The clock follows the variable ``FAKETIME`` or a file. Raises ImportError without
    libfaketime.
    """
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise ImportError("libfaketime is missing (Debian: apt-get install libfaketime)")
    return FAKETIME | {"LD_PRELOAD": str(found[0])}


class ManualClock:
    """A :class:`~server.system.clock.Clock` that stands still until a test moves it."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self._at = at

    def advance(self, seconds: float) -> None:
        """Move all three readings."""
        self._at += seconds

    def wall(self) -> float:
        """Return the time as Unix seconds."""
        return self._at

    def monotonic(self) -> float:
        """Return the same as :meth:`wall`."""
        return self._at

    def steady(self) -> float:
        """Return the same as :meth:`wall`."""
        return self._at
