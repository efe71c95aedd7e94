"""The client without ``await`` ends with its close, and with an interrupt."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import pytest

from server.config.settings import Config
from testkit.processes import ROOT
from testkit.running import Web, running_web, until
from tryon.client.problems import Problem
from tryon.client.state import Update
from tryon.client.sync import TryOn

MakeConfig = Callable[..., Config]
SECONDS: Final = 20

FOLLOW: Final = """
import os, signal, sys, threading, time
from tryon import TryOn


def names(frame):
    return [] if frame is None else [frame.f_code.co_name, *names(frame.f_back)]


def interrupt():
    main = threading.main_thread().ident
    while "run" not in names(sys._current_frames()[main])[2:3]:  # below an Event's wait()
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
tryon = TryOn(sys.argv[1], token=sys.argv[2], trust_env=False)
updates = tryon.follow(sys.argv[3])
print(next(updates).seq, flush=True)
if sys.argv[4] == "interrupt":
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        while True:  # its place in the queue may be told first
            next(updates)
    except KeyboardInterrupt:
        print("interrupted", next(updates, "ended"))
        tryon.close()
"""
"""A program that follows a session, and interrupts itself or ends at once."""


MISS: Final = """
import asyncio, signal, sys, threading, time
from tryon.client.loop_thread import LoopThread


def waits():
    frame = sys._current_frames()[threading.main_thread().ident]
    return frame.f_code.co_name == "wait" and frame.f_back.f_back.f_code.co_name == "run"


def interrupt():
    while not waits():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
threading.Thread(target=interrupt, daemon=True).start()
try:
    LoopThread().run(asyncio.sleep(60))
except KeyboardInterrupt:
    print("interrupted")
"""
"""A program whose main thread waits, and is not woken by the signal that it is sent."""


@pytest.fixture
async def web(config: MakeConfig) -> AsyncIterator[Web]:
    async with running_web(config()) as running:
        yield running


@pytest.mark.parametrize("waiting", ["wait", "follow"])
async def test_close_ends_calls_of_other_threads(web: Web, waiting: str) -> None:
    """Raise a problem in the thread that waits, and in every later call."""
    session, token = await web.submit()
    tryon = TryOn(f"http://127.0.0.1:{web.port}", token=token, trust_env=False)
    call: Callable[[str], Any] = tryon.wait if waiting == "wait" else lambda each: list(tryon.follow(each))
    waiter = asyncio.create_task(asyncio.to_thread(call, session.id))
    await until(lambda: web.hub.followers_of(session.id))
    async with asyncio.timeout(SECONDS):
        await asyncio.to_thread(tryon.close)
        with pytest.raises(Problem) as ended:
            await waiter
        assert ended.value.code == "closed"
        with pytest.raises(Problem, match="closed"):
            await asyncio.to_thread(tryon.get, session.id)
    await until(lambda: not web.hub.followers_of(session.id))


async def program(web: Web, then: str) -> asyncio.subprocess.Process:
    """Return the program, which has been shown the first transition."""
    session, token = await web.submit()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FOLLOW, f"http://127.0.0.1:{web.port}", token, session.id, then),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    assert await process.stdout.readline() == b"1\n"
    return process


async def test_interrupt_ends_a_follower_as_itself(web: Web) -> None:
    """Raise KeyboardInterrupt out of the loop, not an error of the clean-up."""
    process = await program(web, "interrupt")
    async with asyncio.timeout(SECONDS):
        assert await process.communicate() == (b"interrupted ended\n", b"")


async def test_interrupt_is_seen_though_it_wakes_no_thread() -> None:
    """Look for signals again: one may come just before the wait begins."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MISS), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(SECONDS):
        assert await process.communicate() == (b"interrupted\n", b"")


async def test_program_may_end_with_an_open_follower(web: Web) -> None:
    """Let the interpreter end, though the thread of the loop is gone."""
    process = await program(web, "leave")
    async with asyncio.timeout(SECONDS):
        assert await process.communicate() == (b"", b"")
    assert process.returncode == 0


async def test_follower_may_be_finalized_in_the_loop(web: Web) -> None:
    """Close a follower that a garbage collection in the loop's thread finds."""
    session, token = await web.submit()
    held: list[Iterator[Update]] = []
    finalized = threading.Event()

    def use() -> None:
        with TryOn(f"http://127.0.0.1:{web.port}", token=token, trust_env=False) as tryon:
            held.append(tryon.follow(session.id))
            assert next(held[0]).seq == 1

            def finalize() -> None:
                held.clear()
                finalized.set()

            tryon._loop._loop.call_soon_threadsafe(finalize)
            assert finalized.wait(SECONDS)
            assert tryon.get(session.id).seq == 1

    async with asyncio.timeout(SECONDS):
        await asyncio.to_thread(use)
    await until(lambda: not web.hub.followers_of(session.id))
