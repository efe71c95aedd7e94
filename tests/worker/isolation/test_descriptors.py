"""A worker without a free descriptor: sessions wait or run again, and none fails."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from typing import Any

import pytest

from testkit.running import until
from tests.worker.isolation.sessions import ELSEWHERE, Start, job, said
from tryon.processor import ProcessorError
from tryon.processor.conformance import Reports
from worker.isolation.child_link import ChildLink
from worker.isolation.messages import LostFiles
from worker.isolation.session_run import Work
from worker.isolation.timing import Timing


async def test_session_without_descriptors_is_tried_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its child and the sessions there are left alone."""
    pool = await start(processor=ELSEWHERE)
    await said(pool, "say")
    report = Reports()
    running = asyncio.create_task(pool.run(job("never"), report))
    await asyncio.wait_for(report.reported.wait(), 30)
    with monkeypatch.context() as patched:
        patched.setattr(Work, "open", full)
        with pytest.raises(ProcessorError) as refused:
            await pool.run(job("say"), Reports())
    assert (refused.value.code, refused.value.requeue, refused.value.retry_after) == ("unavailable", False, 1.0)
    assert await said(pool, "say") == "said"
    running.cancel()
    await asyncio.wait({running})


async def test_session_whose_answer_finds_no_descriptor_is_run_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time counts as an attempt: the work may be paid for."""
    pool = await start(processor=ELSEWHERE)
    report = Reports()
    running = asyncio.create_task(pool.run(job("say"), report))

    def without_room(child: ChildLink) -> Any:
        raise LostFiles("no descriptor is left")

    await asyncio.wait_for(report.reported.wait(), 30)  # and it has more to say
    with monkeypatch.context() as patched:
        patched.setattr(ChildLink, "receive", without_room)
        with pytest.raises(ProcessorError) as lost:
            await asyncio.wait_for(running, 30)
    assert (lost.value.code, lost.value.requeue) == ("unavailable", True)
    assert await said(pool, "say") == "said"


def full(*arguments: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_child_without_a_connection_is_asked_for_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment without descriptors costs a session that needs a new child a moment."""
    pool = await start(processor=ELSEWHERE, timing=Timing(restart_seconds=0.05))
    [pid] = pool.pids
    connect, calls = ChildLink.connect, []

    def once(child: ChildLink, on_readable: Any) -> Any:
        calls.append(child)
        return full() if len(calls) == 1 else connect(child, on_readable)

    monkeypatch.setattr(ChildLink, "connect", once)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not pool.pids or pool.pids != [pid])
    assert await said(pool, "say") == "said"
    assert len(calls) >= 2
