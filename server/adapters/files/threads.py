"""The threads of the storage: a few of their own, and none is waited for for ever.

A storage may answer nothing for hours: a network share that is gone, a dying disk. A
call of the operating system that waits for it cannot be ended, so it takes its thread
with it. Three rules keep that from spreading:

- The threads belong to the storage alone. asyncio's own, which resolve names and serve
  static files, never wait for it.
- A caller waits for a bounded time, then gets Unavailable. Its call is *abandoned*: the
  thread comes back when the storage answers. When all threads are held like this, every
  further call is refused at once, until one comes back.
- The threads are daemons: none of them keeps the process from ending.

An abandoned call still uses its file. :class:`Lent` closes such a file when the last
use has ended, since the number of a closed descriptor soon is another file's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any, Final, ParamSpec, TypeVar

from server.adapters.files.errors import unavailable
from tryon.protocol.errors import Unavailable

THREADS: Final = 16
"""Maximum threads; they start when they are needed."""

ANSWER_SECONDS: Final = 5.0
"""Maximum time of one call of the storage, the wait for a thread included."""

CANCEL_SECONDS: Final = 0.5
"""Maximum time that a cancelled caller waits for its call to end."""

IDLE_SECONDS: Final = 10.0
"""Time after which a thread without work ends."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class StorageThreads:
    """Runs calls that wait for the storage; for one event loop.

    State: the threads, the calls that wait for one, and how many threads are held by
    abandoned calls.
    """

    def __init__(self, count: int = THREADS) -> None:
        self._count = count
        self._lock = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._threads = 0
        self._idle = 0
        self._held = 0

    def __repr__(self) -> str:
        return f"<StorageThreads {self._threads} of {self._count}, idle={self._idle} held={self._held}>"

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``work`` in a thread, for at most :data:`ANSWER_SECONDS`."""
        return await self.run_for(ANSWER_SECONDS, work, *args, **kwargs)

    async def run_for(self, seconds: float, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``work`` in a thread, and return or raise what it does.

        Raises Unavailable after ``seconds``, or at once if all threads are held. A
        cancelled caller first waits for the end of its call, but not for long. A call
        that has not begun by then never does.
        """
        call = _Call(asyncio.get_running_loop(), lambda: work(*args, **kwargs))
        self._add(call)
        try:
            await asyncio.wait({call.done}, timeout=seconds)
        except asyncio.CancelledError:
            await _see_out(call)
            self._abandon(call)
            raise
        if not call.done.done():
            self._abandon(call)
            raise unavailable()
        result: _T = call.done.result()
        return result

    def run_later(self, work: Callable[[], object]) -> None:
        """Run ``work`` in a thread, and return at once: to let go of a file, say.

        It waits for a thread even if all are held, since it must be done; errors of the
        storage are dropped. A thread that it holds for long counts as held.
        """
        loop = asyncio.get_running_loop()
        call = _Call(loop, lambda: _without_errors(work))
        try:
            self._add(call, refuse=False)
        except Unavailable:  # the system has no thread at all
            _without_errors(work)
        else:
            loop.call_later(ANSWER_SECONDS, self._watch, loop, call)

    def _watch(self, loop: asyncio.AbstractEventLoop, call: _Call) -> None:
        with self._lock:
            if call.ended:
                return
            if call.running:
                call.abandoned = True
                self._held += 1
                return
        loop.call_later(ANSWER_SECONDS, self._watch, loop, call)

    def _add(self, call: _Call, *, refuse: bool = True) -> None:
        with self._lock:
            if refuse and self._held >= self._count:
                raise unavailable()
            self._waiting.append(call)
            if len(self._waiting) <= self._idle:
                self._lock.notify()
            elif self._threads < self._count:
                self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name="storage", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has none left; one of ours may be free soon
            if not self._threads:
                self._waiting.pop()
                raise unavailable() from error
        else:
            self._threads += 1

    def _abandon(self, call: _Call) -> None:
        with self._lock:
            call.abandoned = True
            if call.running:
                self._held += 1
            elif not call.ended:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(call)

    def _serve(self) -> None:
        """Run one call after the other, until there is none for a while."""
        while True:
            with self._lock:
                while not self._waiting:
                    self._idle += 1
                    notified = self._lock.wait(IDLE_SECONDS)
                    self._idle -= 1
                    if not notified and not self._waiting:
                        self._threads -= 1
                        return
                call = self._waiting.popleft()
                call.running = True
            call.run()
            with self._lock:
                call.running, call.ended = False, True
                if call.abandoned:
                    self._held -= 1
            call.report()
            del call


def _without_errors(work: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        work()


class _Call:
    """One call; ``running``, ``ended`` and ``abandoned`` change under the lock."""

    __slots__ = ("_error", "_loop", "_result", "_work", "abandoned", "done", "ended", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> None:
        self.done: asyncio.Future[Any] = loop.create_future()
        self.running = self.ended = self.abandoned = False
        self._loop = loop
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work, in a thread, and keep its result."""
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def report(self) -> None:
        """Hand the result to the caller's loop, which may be closed by now."""
        if not self.abandoned:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self.done.done() or self.abandoned:  # an error that nothing reads would be reported
            return
        if self._error is None:
            self.done.set_result(self._result)
        elif isinstance(self._error, StopIteration | CancelledError):  # a future takes neither
            self.done.set_exception(RuntimeError(repr(self._error)))
        else:
            self.done.set_exception(self._error)


async def _see_out(call: _Call) -> None:
    """Wait for the end of a call, for at most :data:`CANCEL_SECONDS`.

    Further cancels meanwhile are one with the first.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + CANCEL_SECONDS
    done: set[asyncio.Future[Any]] = set()
    while not done and (left := until - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            done, _ = await asyncio.wait({call.done}, timeout=left)
    for ended in done:
        ended.exception()  # noted, so that nothing complains of it


class Lent:
    """Something that threads use, and that is closed when none of them does any more.

    State: how many use it, and whether it is to be closed.
    """

    __slots__ = ("_close", "_closing", "_lock", "_uses")

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._uses = 0
        self._closing = False

    def __repr__(self) -> str:
        return f"<Lent uses={self._uses}{' closing' if self._closing else ''}>"

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Use it in this block; a call that comes after its closing raises OSError."""
        with self._lock:
            if self._closing:
                raise OSError("the file is closed")
            self._uses += 1
        try:
            yield
        finally:
            if self._end_use():
                self._close()

    def _end_use(self) -> bool:
        """Return whether this was the last use, and it is to be closed."""
        with self._lock:
            self._uses -= 1
            return self._closing and not self._uses

    def close_after_use(self) -> bool:
        """Have the last use close it; return False, and do nothing, if there is none.

        No use begins from now on.
        """
        with self._lock:
            self._closing = True
            return self._uses > 0

    def close(self) -> None:
        """Close it now, or at the end of its last use."""
        if not self.close_after_use():
            self._close()
