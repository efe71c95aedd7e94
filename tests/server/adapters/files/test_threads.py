"""The threads of the storage: bounded in number and in time, also when calls hang."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.adapters.files import threads as module
from server.adapters.files.threads import Lent, StorageThreads
from testkit.running import until
from tryon.protocol.errors import Unavailable


class Hanging:
    """Calls that hang until they are released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.begun = 0

    def call(self) -> str:
        """Wait for the release."""
        self.begun += 1
        self.released.wait()
        return "answered"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """Release every call at the end of the test."""
    calls = Hanging()
    yield calls
    calls.released.set()


def running(threads: StorageThreads) -> int:
    """Return the number of threads."""
    return threads._threads


async def test_run_returns_or_raises_what_the_call_does() -> None:
    """Arguments, results and errors pass through, a TimeoutError of the call too."""
    threads = StorageThreads()
    assert await threads.run(divmod, 7, 3) == (2, 1)
    for error in (OSError(28, "full"), TimeoutError("of the network"), StopIteration()):

        def fail(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error) if isinstance(error, OSError) else RuntimeError):
            await threads.run(fail)


async def test_few_threads_serve_many_calls() -> None:
    """Two hundred calls need no more threads than there may be."""
    threads = StorageThreads(4)
    assert await asyncio.gather(*(threads.run(abs, -n) for n in range(200))) == list(range(200))
    assert 1 <= running(threads) <= 4


async def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stores nothing keeps no threads."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    threads = StorageThreads()
    await threads.run(abs, -1)
    await until(lambda: running(threads) == 0)
    assert await threads.run(abs, -1) == 1


async def test_hanging_calls_are_refused_at_once_when_all_threads_are_held(hanging: Hanging) -> None:
    """Each of the first waits for its bound, the others don't; then all works again."""
    threads = StorageThreads(2)
    first = (threads.run_for(1.0, hanging.call) for _ in range(2))
    assert [type(each) for each in await asyncio.gather(*first, return_exceptions=True)] == [Unavailable] * 2
    for _ in range(100):
        with pytest.raises(Unavailable):
            await threads.run_for(60, hanging.call)
    assert (hanging.begun, running(threads)) == (2, 2)
    assert await asyncio.to_thread(abs, -1) == 1, "asyncio's own threads are free"
    hanging.released.set()
    await until(lambda: threads._held == 0)
    assert await threads.run(abs, -1) == 1


async def test_waiting_call_that_is_abandoned_never_begins(hanging: Hanging) -> None:
    """A delete that was answered with 503 must not happen an hour later."""
    threads = StorageThreads(1)
    later: list[str] = []
    first = asyncio.create_task(threads.run(hanging.call))
    await until(lambda: hanging.begun)
    with pytest.raises(Unavailable):
        await threads.run_for(0.02, later.append, "begun")
    hanging.released.set()
    assert await first == "answered"
    await threads.run(abs, -1)
    assert later == []


async def test_late_failure_reports_no_unread_error() -> None:
    """A call fails as its caller leaves: its error is not reported as unread."""

    def fail() -> None:
        raise OSError(5, "late")

    call = module._Call(asyncio.get_running_loop(), fail)
    call.run()
    call.report()
    call.abandoned = True  # before the loop has settled it
    await asyncio.sleep(0)
    assert not call.done.done()


async def test_cancelled_caller_leaves_a_hanging_call(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the end of a short call, and for a hanging one only briefly."""
    monkeypatch.setattr(module, "CANCEL_SECONDS", 0.05)
    threads = StorageThreads()
    calling = asyncio.create_task(threads.run_for(60, hanging.call))
    await until(lambda: hanging.begun)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await calling
    assert threads._held == 1


def test_hanging_call_does_not_keep_the_process() -> None:
    """A process ends although a thread waits for ever."""
    script = (
        "import asyncio, threading\n"
        "from server.adapters.files.threads import StorageThreads\n"
        "from tryon.protocol.errors import Unavailable\n"
        "async def main():\n"
        "    try:\n"
        "        await StorageThreads().run_for(0.05, threading.Event().wait)\n"
        "    except Unavailable:\n"
        "        print('unavailable')\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[4], capture_output=True, timeout=20, check=True
    )
    assert ended.stdout == b"unavailable\n"


def test_lent_file_is_closed_after_its_last_use() -> None:
    """It is closed once: at once, or by the use that ends last."""
    closed: list[Any] = []
    lent = Lent(lambda: closed.append(time.monotonic()))
    with lent.use():
        with lent.use():
            lent.close()
            assert lent.close_after_use()
        assert closed == []
        with pytest.raises(OSError, match="closed"), lent.use():
            pass
    assert len(closed) == 1
    assert not lent.close_after_use()


async def test_later_work_is_done_although_all_threads_are_held(hanging: Hanging) -> None:
    """It waits for a thread instead of being refused, and its errors are dropped."""
    threads = StorageThreads(1)
    with pytest.raises(Unavailable):
        await threads.run_for(1.0, hanging.call)
    done = threading.Event()

    def work() -> None:
        done.set()
        raise OSError("the storage is gone")

    threads.run_later(work)
    assert not done.is_set()
    hanging.released.set()
    await asyncio.to_thread(done.wait, 10)
    assert await threads.run(abs, -1) == 1


async def test_later_work_that_hangs_holds_its_thread(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as an abandoned call, so that other calls are refused at once."""
    threads = StorageThreads(1)
    with monkeypatch.context() as impatient:
        impatient.setattr(module, "ANSWER_SECONDS", 0.05)
        threads.run_later(hanging.call)
        await until(lambda: "held=1" in repr(threads))
    with pytest.raises(Unavailable):
        await threads.run(abs, -1)
    hanging.released.set()
    await until(lambda: "held=0" in repr(threads))
    assert await threads.run(abs, -1) == 1
