"""The requests of a web process that have no answer yet: a stop refuses them.

A request may wait for a database that is blocked or hangs, and a cancellation takes as
long as the wait that it ends: a thread inside SQLite hears nothing for five seconds.
The answer must not wait for that, so it is sent past the task, which is cancelled then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger("tryon.web")

Refuse = Callable[[], Awaitable[bool]]
"""Answers one request with ``unavailable``; returns False if its answer has begun."""


class Unanswered:
    """The requests in flight of one process; the outermost middleware adds them."""

    def __init__(self) -> None:
        self._requests: set[Refuse] = set()

    def __repr__(self) -> str:
        return f"<Unanswered {len(self)}>"

    def __len__(self) -> int:
        return len(self._requests)

    @contextlib.contextmanager
    def added(self, refuse: Refuse) -> Iterator[None]:
        """Keep a request for as long as the block lasts."""
        self._requests.add(refuse)
        try:
            yield
        finally:
            self._requests.discard(refuse)

    async def refuse_all(self) -> int:
        """Answer all requests that have no answer; return how many there were.

        The end of one may begin the next of its connection: that is refused, too.
        """
        refused = 0
        while requests := tuple(self._requests):
            self._requests.clear()
            for result in await asyncio.gather(*(refuse() for refuse in requests), return_exceptions=True):
                if isinstance(result, Exception):
                    log.warning("A request could not be refused: %s", result)
                refused += result is True
        return refused
