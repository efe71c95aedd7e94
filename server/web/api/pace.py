"""The slowest pace of a body: bytes in a sliding window of the time that was waited.

Pure: :mod:`server.web.api.uploads` has the clock. A pause, a trickle and a byte every
few seconds all end at the same deadline, however long the body went well before.
"""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 15.0
"""Length of the window, and so the longest pause."""

SLOWEST_RATE: Final = 4096
"""Bytes per second in the window.

The slowest mobile networks still give twice as much.
"""

WINDOW_BYTES: Final = int(WINDOW_SECONDS * SLOWEST_RATE)

_STEP_SECONDS: Final = WINDOW_SECONDS / 16
"""Arrivals within this time count as one, at the time of the first: the window may be
that much shorter, and a body of single bytes leaves no more marks than any other."""


class Pace:
    """The arrivals of one body in the last window.

    Times are seconds that the server waited for the client. Its own work (a slow disk)
    is not the client's fault.
    """

    def __init__(self) -> None:
        self._received = 0
        self._marks = deque([(0.0, 0)])
        """Times, and the bytes that had arrived after them."""

    def __repr__(self) -> str:
        return f"<Pace received={self._received} deadline={self.deadline:.1f}>"

    @property
    def deadline(self) -> float:
        """Return the time at which the window is too poor if nothing arrives."""
        return self._marks[0][0] + WINDOW_SECONDS

    def note(self, now: float, count: int) -> None:
        """Note an arrival."""
        self._received += count
        marks = self._marks
        if len(marks) > 1 and now < marks[-1][0] + _STEP_SECONDS:
            marks[-1] = (marks[-1][0], self._received)
        else:
            marks.append((now, self._received))
        # The window is rich enough while it holds the arrival that brought the total
        # above the bytes which are old enough not to count.
        while marks[0][1] <= self._received - WINDOW_BYTES:
            marks.popleft()
