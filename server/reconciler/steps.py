"""Steps of long work: small enough that nothing else has to wait for one.

Each step is one transaction of the database, and some milliseconds of this process's
event loop. What others wait for is measured, and not what the step waits for itself
(files, Redis, the disk, a share of the processor on a machine that is overloaded):

- the time in which the database served no other writer fits the size of the next
  step; it is a matter of SQLite alone, whose lock is for all rows;
- the processor time that this thread has used, by the step and by whatever it served
  meanwhile, is the pause after it. The work takes half of an idle event loop at most,
  and less of a busy one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeVar

HELD_SECONDS: Final = 0.02
"""Time aimed at in which no other writer is served: a transition may be delayed by
50 ms.
"""

STEP_SECONDS: Final = 0.5
"""Duration of a step that is aimed at with all its waiting: half of a pass's budget."""

FIRST_ITEMS: Final = 40

FEWEST_ITEMS: Final = 20
"""Minimum items of a step.

A step's round trips cost as much as twenty items: smaller ones would delay nothing
less, and on a machine that is overloaded the work would never end.
"""

MOST_ITEMS: Final = 50
"""Maximum items of a step, 5 ms of the event loop in a piece.

With 100 the expiry is a tenth faster, but a transition beside it, which needs the loop
for each of its round trips, waits 44 ms longer (99th percentile) in place of 11.
"""

MAX_PAUSE_SECONDS: Final = 0.1
"""Maximum pause after a step."""

_T = TypeVar("_T")


class Steps:
    """Divides work into steps. State: the number of items of the next one."""

    def __init__(self) -> None:
        self.items = FIRST_ITEMS
        self._held = 0.0

    def __repr__(self) -> str:
        return f"<Steps of {self.items}>"

    async def over(self, items: Sequence[_T]) -> AsyncIterator[Sequence[_T]]:
        """Yield the items, a step's at a time; the step lasts until the next is asked.

        Items may be left over when the caller stops.
        """
        now, start = asyncio.get_running_loop().time, 0
        while start < len(items):
            some = items[start : start + self.items]
            self._held = 0.0
            began, used = now(), time.thread_time()
            yield some
            self.note(now() - began, len(some))
            start += len(some)
            await asyncio.sleep(min(max(self._held, time.thread_time() - used), MAX_PAUSE_SECONDS))

    def note_held(self, seconds: float) -> None:
        """Note the time in this step for which no other writer was served."""
        self._held += seconds

    def note(self, seconds: float, count: int) -> None:
        """Fit the size of the next step to this one's, which took so long."""
        share = max(seconds / STEP_SECONDS, self._held / HELD_SECONDS)
        if share > 1:
            self.items = max(FEWEST_ITEMS, count // 2)
        elif share < 0.5 and count == self.items:
            self.items = min(MOST_ITEMS, self.items * 2)
