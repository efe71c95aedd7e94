"""Fork servers that are killed, hang or cannot fork."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.worker.conftest import gone, until
from tests.worker.isolation.sessions import Start, Waiting, job, run
from tryon.processor import ProcessorError
from tryon.processor.conformance import Reports
from worker.isolation import fork_server_link, messages
from worker.isolation.child_link import ChildLink
from worker.isolation.errors import NotStarted
from worker.isolation.fork_server_link import ForkServerLink
from worker.isolation.messages import Fork
from worker.isolation.timing import Timing


async def test_killed_fork_server_is_replaced(start: Start, neighbours: Any) -> None:
    """Running sessions go on, and the next one has a new fork server."""
    pool = await start()
    end_neighbours = await neighbours(pool)
    killed = pool.fork_server_pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert (await run(pool)).isdigit()  # by a child of the next one
    assert pool.fork_server_pid not in (None, killed)
    await end_neighbours()


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lose the number of each forked process, until this is undone.

    So it is when a fork server is killed after the fork, before it tells.
    """
    monkeypatch.setattr(fork_server_link.ForkServer, "_forked", lambda *_: None)
    return monkeypatch


async def kill_fork_server(pool: Any) -> None:
    server = pool.fork_server_pid
    os.kill(server, signal.SIGKILL)
    await gone(server)


async def test_session_on_a_process_without_a_number_ends(start: Start, untold: pytest.MonkeyPatch) -> None:
    """Without its fork server it could not be killed, nor its end be noticed."""
    pool = await start()
    session = Waiting(pool)
    await session.reached()
    untold.undo()
    await kill_fork_server(pool)
    with pytest.raises(ProcessorError, match="processor_crashed"):
        await asyncio.wait_for(session.outcome, 60)
    assert (await run(pool)).isdigit()


async def test_session_that_waits_for_a_process_without_a_number_gets_another(
    start: Start, tmp_path: Path, untold: pytest.MonkeyPatch
) -> None:
    """The first one ends, although it is about to be ready."""
    pool = await start(processor="tests.worker.faulty:Slow")
    running = asyncio.create_task(run(pool))

    async def begun() -> str | None:
        return next((each.name.partition("-")[2] for each in tmp_path.glob("closed-*")), None)

    first = await until(begun)
    untold.undo()
    await kill_fork_server(pool)
    (tmp_path / "warm").touch()
    assert await running != first
    await gone(int(first))


def _failing(times: int) -> Callable[..., ForkServerLink]:
    left = iter(range(times))

    def start_link(*arguments: Any, **options: Any) -> ForkServerLink:
        if next(left, None) is not None:
            raise OSError("no memory")
        return ForkServerLink(*arguments, **options)

    return start_link


async def test_fork_server_start_is_retried(start: Start, neighbours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that fails for a moment is tried again."""
    pool = await start(timing=Timing(restart_seconds=0.05))
    end_neighbours = await neighbours(pool)  # so no session waits for it when it dies
    monkeypatch.setattr(fork_server_link, "ForkServerLink", _failing(2))
    assert pool.fork_server_pid is not None
    os.kill(pool.fork_server_pid, signal.SIGKILL)
    await gone(pool.fork_server_pid)
    assert (await run(pool)).isdigit()
    await end_neighbours()


async def test_no_session_begins_without_fork_server(
    start: Start, neighbours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for its deadline, and so would all sessions after it."""
    cold: asyncio.Queue[Exception] = asyncio.Queue()
    pool = await start(on_start_error=cold.put_nowait, timing=Timing(restart_seconds=0.05))
    end_neighbours = await neighbours(pool)
    monkeypatch.setattr(fork_server_link, "ForkServerLink", _failing(99))
    assert pool.fork_server_pid is not None
    os.kill(pool.fork_server_pid, signal.SIGKILL)
    assert "no memory" in str(await asyncio.wait_for(cold.get(), 10))
    with pytest.raises(NotStarted):
        await asyncio.wait_for(pool.run(job(), Reports()), 10)
    await end_neighbours()


@pytest.mark.parametrize(("times", "outcome"), [(1, "runs"), (99, "not started")])
async def test_failed_fork_is_retried(
    start: Start, neighbours: Any, monkeypatch: pytest.MonkeyPatch, times: int, outcome: str
) -> None:
    """A fork that fails is tried again a few times; running sessions go on."""
    cold: list[Exception] = []
    pool = await start(on_start_error=cold.append, timing=Timing(restart_seconds=0.05))
    end_neighbours = await neighbours(pool)
    ask, left = pool._fork_server.ask, iter(range(times))

    def no_memory(child: ChildLink, theirs: socket.socket) -> None:
        if next(left, None) is None:
            ask(child, theirs)
        else:
            asyncio.get_running_loop().call_soon(pool._children.not_forked, child, "no memory")

    monkeypatch.setattr(pool._fork_server, "ask", no_memory)
    if outcome == "runs":
        assert (await run(pool)).isdigit()
    else:
        with pytest.raises(NotStarted):
            await asyncio.wait_for(pool.run(job(), Reports()), 10)
    assert bool(cold) == (outcome != "runs")
    await end_neighbours()


@pytest.mark.parametrize(("do", "outcome"), [("segfault", "processor_crashed"), ("exit_quietly", "processor_crashed")])
async def test_crash_is_noticed_without_fork_server(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: str, outcome: str
) -> None:
    """A closed connection is enough to notice a crash."""
    pool = await start(timing=Timing(status_seconds=0.1))
    server = pool.fork_server_pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)  # it forks nothing and reports nothing
    try:
        assert await run(pool, do) == outcome
        waiting = asyncio.create_task(run(pool))
        await asyncio.sleep(0)
    finally:
        os.kill(server, signal.SIGCONT)
    assert (await waiting).isdigit()


async def test_hanging_fork_server_is_replaced(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork server that does not answer is killed, and another one started."""
    pool = await start(timing=Timing(fork_seconds=2.0))
    server = pool.fork_server_pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    assert await run(pool, "segfault") == "processor_crashed"
    assert (await run(pool)).isdigit()
    await gone(server)


async def test_request_that_does_not_fit_is_made_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No later answer is taken for its own."""
    pool = await start(timing=Timing(restart_seconds=0.05))
    refused: list[Fork] = []
    send = messages.send

    def once(to: socket.socket, message: Any, files: Sequence[int] = ()) -> None:
        if isinstance(message, Fork) and not refused:
            refused.append(message)
            raise BlockingIOError("it does not read")
        send(to, message, files)

    monkeypatch.setattr(fork_server_link, "send", once)
    children = [pool._children.add() for _ in range(3)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(child.ready for child in children))
    assert refused
    assert len({child.pid for child in children}) == 3
    for child in children:
        pool._children.end(child)
        await gone(child.pid)


async def test_fork_server_lost_while_the_first_processor_is_made_is_replaced(start: Start, tmp_path: Path) -> None:
    """The start of the worker goes on with another child."""
    pool = await start(processor="tests.worker.faulty:Making", built=False)
    async with asyncio.timeout(60):
        while not (tmp_path / "making").exists():
            await asyncio.sleep(0.01)
    lost = pool.fork_server_pid
    os.kill(lost, signal.SIGKILL)
    async with asyncio.timeout(60):
        while pool.fork_server_pid in (lost, None):
            await asyncio.sleep(0.01)
    (tmp_path / "made").touch()
    await asyncio.wait_for(pool.built(), 60)
    assert await run(pool) == str(pool.pids[0])
