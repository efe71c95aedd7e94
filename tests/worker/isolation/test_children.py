"""Lost children: a crash or a limit ends one session, and no neighbour notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from testkit.running import until
from tests.worker.conftest import gone
from tests.worker.isolation.sessions import LINUX, PATIENT, Start, job, run
from tryon.processor import ProcessorError
from tryon.processor.conformance import Reports
from worker.isolation.child_link import ChildLink, State
from worker.isolation.errors import NotStarted
from worker.isolation.fork_server_link import ForkServer
from worker.isolation.timing import Timing

CRASHES = [
    ("segfault", "was killed by SIGSEGV"),
    ("abort", "was killed by SIGABRT"),
    ("exit_quietly", "ended with status 0"),
    ("kill_itself", "was killed by SIGKILL"),
    ("close_everything", ""),
    ("babble", "sent no message"),
    ("flood", "sent no message"),
    ("answer_for_another", "sent an unexpected Done message"),
]


@pytest.mark.parametrize(("do", "how"), CRASHES)
async def test_crash_ends_its_own_session(
    start: Start, neighbours: Any, caplog: pytest.LogCaptureFixture, do: str, how: str
) -> None:
    """However a child is lost, its session fails and its neighbours go on."""
    ended = how.startswith(("was killed", "ended"))  # else the fork server has nothing to say
    pool = await start(timing=PATIENT if ended else Timing())
    end_neighbours = await neighbours(pool)
    before = set(pool.pids)

    assert await run(pool, do) == "processor_crashed"

    assert f"The process of session s1 {how}" in caplog.text
    for pid in before - set(pool.pids):
        await gone(pid)
    await end_neighbours()
    assert (await run(pool)).isdigit()


@pytest.mark.parametrize("do", ["spin", "spin_in_c", "spin_in_threads"])
async def test_spinning_child_meets_cpu_limit(
    start: Start, neighbours: Any, caplog: pytest.LogCaptureFixture, do: str
) -> None:
    """A loop ends as a timeout when the CPU time is used up, in C or threads too."""
    pool = await start(processor_cpu_seconds=1.0, timing=PATIENT)
    end_neighbours = await neighbours(pool)
    assert await run(pool, do) == "timeout"
    assert "TRYON_PROCESSOR_CPU_SECONDS allows (1)" in caplog.text
    await end_neighbours()


async def test_cpu_time_is_per_session(start: Start) -> None:
    """A child that lives long is not charged for its earlier sessions."""
    pool = await start(processor_cpu_seconds=1.0)
    assert len({await run(pool, "burn") for _ in range(6)}) == 1  # 2.4 s together


@LINUX
async def test_crash_takes_started_programs_along(
    start: Start,
) -> None:
    """Programs and copies that a crashed child had started are killed."""
    report = Reports()
    pool = await start()
    [pid] = pool.pids

    with pytest.raises(ProcessorError, match="processor_crashed"):  # although they hold every file of it open
        await pool.run(job("orphans"), report)

    await gone(int(report.all[-1].stage or ""))
    for each in [each.pid for each in psutil.process_iter() if _group(each.pid) == pid]:
        await gone(each)  # it has been killed; the kernel may need a moment


def _group(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            return os.getpgid(pid)
    return None


async def test_forked_processor_answers_once(start: Start) -> None:
    """A copy of a child sends nothing: the session has one answer."""
    pool = await start()
    [pid] = pool.pids
    assert await run(pool, "two_of_us") == str(pid)
    assert (await run(pool)).isdigit()


async def test_crash_while_warming_is_not_started(start: Start, tmp_path: Path) -> None:
    """Sessions that wait for a processor that crashes are not blamed for it."""
    cold: list[Exception] = []
    pool = await start(processor="tests.worker.faulty:Slow", on_start_error=cold.append, timing=PATIENT)
    running = [asyncio.create_task(pool.run(job(), Reports())) for _ in range(3)]
    await asyncio.sleep(0)
    (tmp_path / "new").write_text("crash")
    (tmp_path / "new").rename(tmp_path / "warm")
    assert {type(each) for each in await asyncio.gather(*running, return_exceptions=True)} == {NotStarted}
    [error] = cold
    assert "was killed by SIGABRT" in str(error)
    with pytest.raises(NotStarted):
        await pool.run(job(), Reports())


async def test_child_killed_while_warming_is_replaced(start: Start, tmp_path: Path) -> None:
    """One child that dies before it is ready is started again."""
    pool = await start(processor="tests.worker.faulty:Slow")
    [pid] = pool.pids
    running = asyncio.create_task(run(pool))
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    (tmp_path / "warm").touch()
    assert (await running).isdigit()


async def test_child_asked_for_too_late_is_not_started(start: Start) -> None:
    """Once no processor can be started, a session that needs another child ends."""
    pool = await start()
    pool._children.fork_server_failed(RuntimeError("no memory"))
    child = pool._children.add()
    with pytest.raises(NotStarted):
        await asyncio.wait_for(asyncio.shield(child.ready), 10)
    assert child not in set(pool._children)


@LINUX
async def test_child_that_hung_up_before_its_number_came_is_replaced(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the fork server told its number, but is killed before it told its end."""
    pool = await start(processor="tests.worker.faulty:Slow", timing=Timing(restart_seconds=0.05))
    forked: list[tuple[ChildLink, int]] = []
    sessions = [asyncio.create_task(run(pool))]  # in the idle child
    with monkeypatch.context() as patched:
        patched.setattr(ForkServer, "_forked", lambda server, child, pid: forked.append((child, pid)))
        sessions.append(asyncio.create_task(run(pool)))
        await until(lambda: bool(forked))
    [(child, pid)] = forked
    await until(lambda: child.state is State.WARMING)
    server = psutil.Process(pool.fork_server_pid)
    await until(lambda: server.status() == psutil.STATUS_SLEEPING)  # it has left its copy of the child's socket
    server.suspend()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: child.hung_up)
    pool._fork_server._forked(child, pid)
    server.kill()
    (tmp_path / "warm").touch()
    assert all(each.isdigit() for each in await asyncio.wait_for(asyncio.gather(*sessions), 30))


async def test_killed_idle_child_is_replaced(start: Start) -> None:
    """An idle child that is killed costs no session."""
    pool = await start()
    [pid] = pool.pids
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    async with asyncio.timeout(10):
        while pool.pids:
            await asyncio.sleep(0.01)
    assert await run(pool) != str(pid)
