"""The memory watch: which child uses more memory than its session may.

Judged by resident memory. Address space is no measure: the driver of a GPU takes
terabytes of it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable

from worker.isolation.child_link import ChildLink, rss_bytes
from worker.isolation.errors import Reason


class MemoryWatch:
    """Looks at the children at work, as long as there are any.

    Those that use too much memory go to ``lose``. Linux only: elsewhere nothing is
    watched.
    """

    def __init__(
        self,
        max_bytes: int | None,
        *,
        watch_seconds: float,
        children: Iterable[ChildLink],
        lose: Callable[[ChildLink, Reason, str], None],
    ) -> None:
        self._max_bytes = max_bytes
        self._watch_seconds = watch_seconds
        self._children = children
        self._lose = lose
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<MemoryWatch {self._max_bytes} {'watching' if self._timer is not None else 'resting'}>"

    def start(self) -> None:
        """Watch, now that a child is at work."""
        if self._timer is None:
            self._look()

    def fits_next(self, child: ChildLink) -> bool:
        """Return whether the child has released enough memory for another session.

        One must not be charged for the memory that another has kept.
        """
        return self._max_bytes is None or rss_bytes(child.pid) <= (child.fresh_bytes + self._max_bytes) / 2

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        at_work = [child for child in self._children if child.runs]
        if self._max_bytes is None or sys.platform != "linux" or not at_work:
            return
        for child in at_work:
            if (rss := rss_bytes(child.pid)) > self._max_bytes:
                how = f"had {rss} bytes of memory, more than TRYON_PROCESSOR_MEMORY_BYTES allows ({self._max_bytes})"
                self._lose(child, "memory", how)
        self._timer = asyncio.get_running_loop().call_later(self._watch_seconds, self._look)
