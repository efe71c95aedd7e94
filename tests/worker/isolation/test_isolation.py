"""A real worker whose processor crashes, spins, eats memory and hangs.

Each session has its own end, and no process stays behind.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from server.config.settings import Config
from testkit.stack import Stack
from tests.worker.conftest import Feed, StartWorker, gone, until
from tryon.protocol.states import Event, Status

OpenFeed = Callable[[Config], Awaitable[Feed]]
MakeConfig = Callable[..., Config]

FAULTY = "tests.worker.faulty:Drawing"

ENDS = {
    "segfault": (Status.FAILED, "processor_crashed"),
    "exit_quietly": (Status.FAILED, "processor_crashed"),
    "eat": (Status.FAILED, "processor_crashed"),
    "spin": (Status.FAILED, "timeout"),
    "never": (Status.FAILED, "timeout"),
    "raise_error": (Status.FAILED, "processor_error"),
    "fail": (Status.FAILED, "no_person"),
    "pid": (Status.COMPLETED, None),
    "echo": (Status.COMPLETED, None),
    "report": (Status.COMPLETED, None),
}


def family(worker: Stack) -> list[psutil.Process]:
    """Return the fork server and the children, without the image processes."""
    servers = []
    for each in psutil.Process(worker.process.pid).children():
        with suppress(psutil.Error):  # an image process that has just ended
            if any("forkserver" in word for word in each.cmdline()):
                servers.append(each)
    return [*servers, *(child for server in servers for child in server.children(recursive=True))]


@pytest.mark.slow
async def test_ten_sessions_end_each_its_own_way(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """Crashes, limits, errors and pictures at once: each session has its own end."""
    # A machine that is busy with other tests must lapse no lease and pass no deadline,
    # but for the session that nothing else would end.
    settings = config(processor=FAULTY, deadline_seconds=120.0, lease_seconds=60.0)
    feed, hasty = await feeds(settings), await feeds(config(processor=FAULTY, deadline_seconds=5.0))
    limits = {"TRYON_PROCESSOR_MEMORY_BYTES": str(200 * 2**20), "TRYON_PROCESSOR_CPU_SECONDS": "1"}
    process = await worker(settings, **limits)
    await feed.workers()

    sessions = {do: await (hasty if do == "never" else feed).submit(params={"do": do}) for do in ENDS}

    for do, end in ENDS.items():
        story = await feed.reaches(sessions[do].id, seconds=90)
        assert (story.session.status, story.session.error_code) == end, do
        assert [event.event for event in story.events][:2] == [Event.CREATED, Event.PROCESSING], do
        assert (len(story.events), story.session.attempt) == (3, 1), do  # its own fault: no second attempt
    assert (await feed.story(sessions["segfault"].id)).session.error_retryable is True  # for the person
    assert process.process.returncode is None
    assert await process.stop() == 0


@pytest.mark.skipif("sys.platform != 'linux'", reason="needs /proc")
async def test_killed_worker_leaves_no_process(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """A killed worker's children, their programs and temporary folders end with it."""
    (tmp_path / "temporary").mkdir()
    settings = config(processor=FAULTY)
    feed = await feeds(settings)
    process = await worker(settings, TMPDIR=str(tmp_path / "temporary"))
    dos = ("spin", "spin_in_c", "never", "stubborn", "with_a_program")
    for session in [await feed.submit(params={"do": do}) for do in dos]:
        await feed.reaches(session.id, Status.PROCESSING)

    def folders() -> list[Path]:
        return list((tmp_path / "temporary").glob("tryon-processor-*"))

    async def all_there() -> bool:
        return len(family(process)) == 1 + len(dos) == 1 + len(folders())

    program = await process.line(r"started (\d+)")
    await until(all_there)
    left = [int(program[1]), *(each.pid for each in family(process))]

    process.process.kill()

    for pid in left:
        await gone(pid)
    assert folders() == []


async def test_killed_fork_server_costs_no_session(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """Running and new sessions complete at the first attempt."""
    settings = config(mock_seconds=4.0)
    feed = await feeds(settings)
    process = await worker(settings)
    sessions = [await feed.submit() for _ in range(3)]
    for session in sessions:
        await feed.reaches(session.id, Status.PROCESSING)
    server, *_ = family(process)

    server.kill()
    await process.line("The fork server was killed by SIGKILL; starting another")
    late = await feed.submit()

    for session in (*sessions, late):
        story = await feed.reaches(session.id)
        assert (story.session.status, story.session.attempt) == (Status.COMPLETED, 1)
    assert await process.stop() == 0


async def test_sigterm_to_all_drains_worker(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """As a service manager sends it: sessions that end within the drain do."""
    settings = config(mock_seconds=2.0, drain_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit()
    await feed.reaches(session.id, Status.PROCESSING)

    for each in [*family(process), psutil.Process(process.process.pid)]:
        each.send_signal(signal.SIGTERM)
    assert await process.wait() == 0

    assert (await feed.story(session.id)).session.status is Status.COMPLETED


@pytest.mark.parametrize("do", ["spin_in_c", "stubborn", "in_a_thread"])
async def test_sigterm_hands_stubborn_session_back(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, do: str
) -> None:
    """A session whose processor ignores its cancellation is handed back unburnt."""
    settings = config(processor=FAULTY, drain_seconds=0.2, lease_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit(params={"do": do})
    await feed.reaches(session.id, Status.PROCESSING)
    left = [each.pid for each in family(process)]

    asked = time.monotonic()
    assert await process.stop() == 0

    assert time.monotonic() - asked < 20  # 0.2 + 0.3 + 0.1 on an idle machine
    story = await feed.story(session.id)
    assert (story.session.status, story.session.burnt) == (Status.CREATED, 0)
    assert story.events[-1].data == {"reason": "drained"}
    for pid in left:
        await gone(pid)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
async def test_worker_stops_while_loading_processor(
    config: MakeConfig, worker: StartWorker, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """A stop or a kill during a long import ends the fork server too."""
    (tmp_path / "heavy.py").write_text("import os, time; os.mkfifo('loading'); time.sleep(60)")
    process = await worker(config(processor="heavy:Model"))

    async def loading() -> bool:
        return (tmp_path / "loading").exists()

    await until(loading)
    [server] = family(process)
    assert await asyncio.wait_for(process.stop(number), 30) == status
    await gone(server.pid)
    assert "Traceback" not in process.output


async def test_crash_is_in_worker_output(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """The signal, the stack and log lines come out with the request id."""
    settings = config(processor=FAULTY)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit(params={"do": "segfault"}, request_id="upload-1")
    await feed.reaches(session.id)
    await process.line(rf"ERROR +The process of session {session.id} was killed by SIGSEGV \(request upload-1\)")
    await process.line('File ".*faulty.py", line .* in segfault')

    spoke = await feed.submit(params={"do": "speak"}, request_id="upload-2")
    await feed.reaches(spoke.id)
    await process.line(r"ERROR +A library\\x0asays something \(request upload-2\)")
