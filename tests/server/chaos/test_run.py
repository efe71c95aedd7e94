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


async def nobody() -> None:
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
    """Until somebody lets it go on."""
    return shell(f"cd {folder}; touch broken; while [ ! -e go ]; do sleep 0.02; done; touch mended")


async def test_a_fault_that_has_begun_ends_when_the_last_person_is_done(tmp_path: Path) -> None:
    people: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(broken_by(breaks_and_mends(tmp_path), people))
    await until((tmp_path / "broken").exists)
    people.set_result(None)
    (tmp_path / "go").touch()
    await running
    assert (tmp_path / "mended").exists()


async def test_a_fault_that_has_begun_ends_when_the_run_is_broken_off(tmp_path: Path) -> None:
    running = asyncio.create_task(broken_by(breaks_and_mends(tmp_path)))
    await until((tmp_path / "broken").exists)
    running.cancel()
    await asyncio.sleep(0)
    (tmp_path / "go").touch()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (tmp_path / "mended").exists()


async def test_no_fault_begins_once_the_people_are_done() -> None:
    record = Recorder()
    await while_things_break(
        nobody(), {"a": shell("true")}, every=60, choice=random.Random(1), record=record, clock=SystemClock()
    )
    assert not any(isinstance(each, Fault) for each in record.records)


async def test_a_command_that_does_not_end_is_ended_with_all_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FAULT_SECONDS", 0.5)
    monkeypatch.setattr(run, "END_SECONDS", 0.2)
    stubborn = f"trap '' TERM; (trap '' TERM; sleep 600) & echo $! > {tmp_path}/child; sleep 600"
    with pytest.raises(FaultFailed, match="did not end within"):
        await broken_by(shell(stubborn))
    child = int((tmp_path / "child").read_text())
    await until(lambda: not alive(child))


def alive(pid: int) -> bool:
    """Not so is also who is dead and was not collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_fault_that_fails_sends_the_people_home() -> None:
    with pytest.raises(FaultFailed, match="status 3"):
        await broken_by(shell("exit 3"))
