"""An event loop whose time is a number: a sleep of an hour takes microseconds.

Nothing in it may wait for a socket or a thread. Callbacks that are due at the same
time run in the order in which they were scheduled, so a run can be repeated exactly.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

START_SECONDS: Final = 1_000_000.0
"""The loop's time at its start: a time of 0 would hide a missing one."""


class _NoSockets(selectors.SelectSelector):
    """A selector that moves the time on instead of waiting."""

    def __init__(self, between: Callable[[], object]) -> None:
        super().__init__()
        self.now = START_SECONDS
        self._between = between

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._between()
        if timeout is None:
            raise RuntimeError("every task waits for an event that no timer brings")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; ``time()`` moves only when nothing is left to do.

    ``between`` is called before each turn, when no callback is running.
    """

    def __init__(self, between: Callable[[], object] = lambda: None) -> None:
        self._virtual = _NoSockets(between)
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual.now


class VirtualClock:
    """The product's clock on the loop's time; wall time began at ``wall_start``."""

    def __init__(self, loop: VirtualLoop, *, wall_start: float) -> None:
        self.monotonic = self.steady = loop.time
        self._wall_offset = wall_start - loop.time()
        self._time = loop.time

    def wall(self) -> float:
        """Return Unix time in seconds."""
        return self._time() + self._wall_offset


def run_virtually(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Run a coroutine to its end on ``loop``, and close it."""
    try:
        return loop.run_until_complete(main)
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.close()
