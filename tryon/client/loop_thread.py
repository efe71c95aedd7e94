"""An event loop in a thread of its own, which callers without ``await`` wait for."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from tryon.client.problems import Problem

T = TypeVar("T")

SIGNAL_SECONDS: Final = 0.5
"""Period in which a waiting call looks for signals: one that arrives just before the
wait begins does not end it.
"""


async def _next(values: AsyncGenerator[T, None]) -> T | None:
    return await anext(values, None)


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tryon-client", daemon=True)
        self._lock = threading.RLock()  # a generator may be finalized wherever it is held
        self._closed = False
        self._last_tasks: set[asyncio.Task[None]] = set()
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LoopThread {'closed' if self._closed else 'running'}>"

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine. Raises Problem once the loop is closed.

        An interrupt in this thread cancels the coroutine and waits for its end.
        """
        tasks: list[asyncio.Task[T]] = []
        ended = threading.Event()

        def start() -> None:
            tasks.append(self._loop.create_task(call))
            tasks[0].add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, if interrupted
            tasks[0].add_done_callback(lambda _: ended.set())

        def cancel() -> None:
            tasks[0].cancel()

        with self._lock:
            if self._closed:
                call.close()
                raise _closed()
            self._loop.call_soon_threadsafe(start)
        try:
            while not ended.wait(SIGNAL_SECONDS):
                pass
        except BaseException:
            with contextlib.suppress(RuntimeError):  # closed meanwhile, which cancels too
                self._loop.call_soon_threadsafe(cancel)
            ended.wait()
            raise
        if tasks[0].cancelled():
            raise _closed()
        return tasks[0].result()

    def iterate(self, values: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield the values of a generator; closing the iterator closes it."""
        try:
            while (value := self.run(_next(values))) is not None:
                yield value
        finally:
            self.finish(values)

    def finish(self, values: AsyncGenerator[Any, None]) -> None:
        """Close a generator; wait for that where it is possible."""
        if sys.is_finalizing():
            return
        if threading.current_thread() is self._thread:  # finalized by a garbage collection
            task = self._loop.create_task(values.aclose())
            self._last_tasks.add(task)
            task.add_done_callback(self._last_tasks.discard)
            return
        with contextlib.suppress(Problem):  # the loop was closed, and the generator with it
            self.run(values.aclose())

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel every call, run ``last``, and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await last()


def _closed() -> Problem:
    return Problem("closed", "The client is closed.", retryable=False)
