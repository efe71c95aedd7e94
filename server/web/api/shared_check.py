"""A check of one part of the service, shared by all requests of a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from server.system.clock import Clock

SHARED_SECONDS: Final = 1.0
"""How long an answer is given to later requests, from the begin of its check."""

T = TypeVar("T")


class SharedCheck(Generic[T]):
    """A call that is made once, however many requests want its result.

    Requests that come while it runs wait for it; requests within
    :data:`SHARED_SECONDS` of its begin get the same result. So strangers who ask for
    the health of the service cost it one check a second. State: the last call.
    """

    __slots__ = ("_began", "_call", "_clock", "_task")

    def __init__(self, call: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._call = call
        self._clock = clock
        self._task: asyncio.Task[T] | None = None
        self._began = 0.0

    def __repr__(self) -> str:
        state = "none" if self._task is None else "done" if self._task.done() else "running"
        return f"<SharedCheck {state}>"

    async def result(self) -> T:
        """Return the result of the call; raise its error."""
        now = self._clock.monotonic()
        task = self._task
        if task is None or (task.done() and now - self._began >= SHARED_SECONDS):
            self._began = now
            task = self._task = asyncio.create_task(self._run(), name="health-check")
        return await asyncio.shield(task)  # a request that ends takes no other one's check along

    async def _run(self) -> T:
        return await self._call()
