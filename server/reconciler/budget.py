"""The time budget that one pass has for each kind of work that can wait."""

from __future__ import annotations

from server.reconciler import timing
from server.system.clock import Clock


class Budget:
    """A span of :data:`timing.PASS_SECONDS` that begins with its construction."""

    __slots__ = ("_clock", "_ends_at")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends_at = clock.monotonic() + timing.PASS_SECONDS

    def __repr__(self) -> str:
        return f"<Budget left={self._ends_at - self._clock.monotonic():.1f} s>"

    @property
    def used_up(self) -> bool:
        """Whether the rest of the work is left to the next pass."""
        return self._clock.monotonic() >= self._ends_at
