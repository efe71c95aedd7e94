"""Questions that several servers are asked at once, for several callers at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from server.adapters.redis.errors import UNAVAILABLE

_Answer = TypeVar("_Answer")


async def most_say(questions: Sequence[Coroutine[Any, Any, _Answer]]) -> _Answer:
    """Ask all at once; return the answer that most of them give.

    As soon as more than half agree, the others are not waited for. Raises the first
    error, one of ``errors.UNAVAILABLE``, if none is answered. An answer is hashable.
    """
    asked = [asyncio.create_task(question) for question in questions]
    votes: Counter[_Answer] = Counter()
    first: BaseException | None = None
    try:
        for answered in asyncio.as_completed(asked):
            try:
                answer = await answered
            except UNAVAILABLE as error:
                first = first or error
                continue
            votes[answer] += 1
            if votes[answer] > len(asked) // 2:
                return answer
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    if not votes:
        raise first or TimeoutError("nothing was asked")
    return votes.most_common(1)[0][0]


class SharedSearch(Generic[_Answer]):
    """A search that callers share while it is under way.

    A caller that is cancelled does not end it: the next one may need its result.
    """

    def __init__(self, search: Callable[[], Coroutine[Any, Any, _Answer]]) -> None:
        self._begin = search
        self._task: asyncio.Task[_Answer] | None = None

    def __repr__(self) -> str:
        return f"<SharedSearch {self._task!r}>"

    def begin(self) -> asyncio.Task[_Answer]:
        """Return the search that is under way, or a new one."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._begin(), name="redis-search")
            self._task.add_done_callback(_retrieve)
        return self._task

    async def result(self) -> _Answer:
        """Wait for a search, and return its result or raise its error."""
        return await asyncio.shield(self.begin())

    async def stop(self) -> None:
        """End a search that is under way."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Mark an error as seen: every caller may have been cancelled."""
    if not task.cancelled():
        task.exception()
