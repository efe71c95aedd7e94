"""What a run breaks it mends, however the run ends."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from server.chaos import run
from server.chaos.records import Fault, Recorder
from server.chaos.run import FaultFailed, FaultFunction, shell, while_things_break
from server.system.clock import SystemClock
from testkit.running import until


async def no_users() -> None:
    pass


async def somebody_for_ever() -> None:
    await asyncio.Event().wait()


async def broken_by(fault: FaultFunction, people: asyncio.Future[None] | None = None) -> None:
    async def come() -> None:
        await (people or somebody_for_ever())

    await while_things_break(
        come(),
        {"a": fault},
        every=0,
        choice=random.Random(1),
        record=Recorder(),
        clock=SystemClock(),
        say=lambda said: None,
    )


def breaks_and_mends(folder: Path) -> FaultFunction:
    """Return a fault that lasts until the file `go` exists."""
    return shell(f"cd {folder}; touch broken; while [ ! -e go ]; do sleep 0.02; done; touch mended")


async def test_fault_in_progress_outlasts_the_people(tmp_path: Path) -> None:
    """Wait for a fault in progress after the last person is done."""
    people: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(broken_by(breaks_and_mends(tmp_path), people))
    await until((tmp_path / "broken").exists)
    people.set_result(None)
    (tmp_path / "go").touch()
    await running
    assert (tmp_path / "mended").exists()


async def test_fault_in_progress_outlasts_a_cancel(tmp_path: Path) -> None:
    """Wait for a fault in progress after the run was cancelled."""
    running = asyncio.create_task(broken_by(breaks_and_mends(tmp_path)))
    await until((tmp_path / "broken").exists)
    running.cancel()
    await asyncio.sleep(0)
    (tmp_path / "go").touch()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (tmp_path / "mended").exists()


async def test_no_fault_begins_after_the_people() -> None:
    """Break nothing once every person is done."""
    record = Recorder()
    await while_things_break(
        no_users(), {"a": shell("true")}, every=60, choice=random.Random(1), record=record, clock=SystemClock()
    )
    assert not any(isinstance(each, Fault) for each in record.records)


async def test_endless_fault_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a command that ignores SIGTERM, and its children."""
    monkeypatch.setattr(run, "FAULT_SECONDS", 2.0)
    monkeypatch.setattr(run, "END_SECONDS", 0.2)
    stubborn = f"trap '' TERM; (trap '' TERM; sleep 600) & echo $! > {tmp_path}/child; sleep 600"
    with pytest.raises(FaultFailed, match="did not end within"):
        await broken_by(shell(stubborn))
    child = int((tmp_path / "child").read_text())
    await until(lambda: not alive(child))


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_failed_fault_cancels_the_people() -> None:
    """Cancel every person when a fault cannot be brought about."""
    with pytest.raises(FaultFailed, match="status 3"):
        await broken_by(shell("exit 3"))
