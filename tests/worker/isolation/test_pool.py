"""What one session does to its own process, no other session and no worker notices:
real crashes, loops and kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.config.settings import Config, ConfigError
from tests.worker.conftest import gone
from tryon.processor import Job, ProcessorError
from worker.isolation import fork_server_link
from worker.isolation.errors import NotStarted, RaisedInChild
from worker.isolation.fork_server_link import ForkServerLink
from worker.isolation.pool import NICENESS, ProcessPool
from worker.isolation.timing import Timing

LINUX = pytest.mark.skipif("sys.platform != 'linux'", reason="needs /proc")
MEGABYTE = 2**20

Start = Callable[..., Any]
Told = list[tuple[float | None, str | None, float | None]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts children of a processor that obeys its jobs; all of them are closed in the
    end, and gone.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*, processor: str = "tests.worker.faulty:Faulty", **settings: Any) -> ProcessPool:
            options: dict[str, Any] = {
                name: settings.pop(name) for name in ("on_start_error", "timing") if name in settings
            }
            if processor.endswith(":Slow"):
                options["options"] = {"folder": str(tmp_path)}
            children = ProcessPool(Config(data_dir=tmp_path, processor=processor, **settings), **options)
            stack.push_async_callback(children.close)
            children.start()
            await children.built()
            return children

        yield begin


def job(do: str = "pid", **params: Any) -> Job:
    return Job("s1", 1, b"a photo", "image/jpeg", params={"do": do} | params)


async def quiet(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
    pass


async def run(children: ProcessPool, do: str = "pid", **params: Any) -> str:
    """What the processor says, or what the session fails as."""
    try:
        return (await asyncio.wait_for(children.run(job(do, **params), quiet), 60)).data.decode()
    except ProcessorError as error:
        return error.code
    except RaisedInChild:
        return "processor_error"


class Waiting:
    """A session that runs for as long as the test wants."""

    def __init__(self, children: ProcessPool, folder: Path, name: str) -> None:
        self._pipes = (folder / f"{name}.reached", folder / f"{name}.release")
        for path in self._pipes:
            os.mkfifo(path)
        self._reached, self._release = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self._pipes)
        params = {"reached": str(self._pipes[0]), "release": str(self._pipes[1])}
        self.outcome = asyncio.create_task(run(children, "wait", **params))

    async def reached(self) -> None:
        loop, reached = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._reached, reached.set)
        try:
            await asyncio.wait_for(reached.wait(), 10)
        finally:
            loop.remove_reader(self._reached)

    async def end(self) -> str:
        os.write(self._release, b"!")
        try:
            return await self.outcome
        finally:
            os.close(self._reached)
            os.close(self._release)


@pytest.fixture
async def neighbours(tmp_path: Path) -> Callable[[ProcessPool], Any]:
    """Two sessions that are at work; the function that is returned lets them end, and
    checks that they end well.
    """

    async def begin(children: ProcessPool) -> Any:
        waiting = [Waiting(children, tmp_path, name) for name in ("one", "other")]
        for each in waiting:
            await each.reached()

        async def end() -> None:
            assert [await each.end() for each in waiting] == ["waited", "waited"]

        return end

    return begin


# -- in good order ---------------------------------------------------------------------


async def test_a_job_goes_in_and_an_output_comes_out(start: Start) -> None:
    children = await start()
    large = Job("s1", 1, os.urandom(5 * MEGABYTE), "image/png", os.urandom(MEGABYTE), "image/png", {"do": "echo"})
    output = await children.run(large, quiet)
    assert large.garment is not None
    assert (output.data, output.extension) == (large.image + large.garment, "png")

    params = {"do": "describe", "more": {"n": 2**70, "f": 0.1, "s": "ä\u2028😀", "x": [None, True]}}
    said = await children.run(Job("s2", 3, b"x", "image/webp", params=params), quiet)
    assert said.data.decode() == f"s2 3 image/webp None 2 {params['more']}"


async def test_a_child_is_used_again_and_one_idle_is_kept(start: Start, tmp_path: Path) -> None:
    children = await start(timing=Timing(idle_seconds=0.05))
    [first] = children.pids
    assert {await run(children) for _ in range(3)} == {str(first)}

    many = [Waiting(children, tmp_path, str(number)) for number in range(10)]
    for each in many:
        await each.reached()
    pids = children.pids
    assert len(pids) == 10
    for each in many:
        assert await each.end() == "waited"

    async with asyncio.timeout(10):
        while len(children.pids) > 1:
            await asyncio.sleep(0.01)
    [left] = children.pids
    for pid in set(pids) - {left}:
        await gone(pid)
    assert await run(children) == str(left)


async def test_a_session_finds_the_child_that_has_just_ended_another(start: Start, tmp_path: Path) -> None:
    """A full worker's next session comes milliseconds after the last one's end."""
    children = await start()
    pair = [Waiting(children, tmp_path, name) for name in ("one", "other")]
    for each in pair:
        await each.reached()
    both = children.pids
    for each in pair:
        await each.end()
    again = [Waiting(children, tmp_path, name) for name in ("third", "fourth")]
    for each in again:
        await each.reached()
    assert children.pids == both
    for each in again:
        await each.end()


async def test_reports_come_coalesced_and_nonsense_in_them_harms_nothing(start: Start) -> None:
    children = await start()
    told: Told = []

    async def report(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        told.append((progress, stage, eta_seconds))

    assert (await children.run(job("report"), report)).data == b"reported"
    assert told[0] == (0.25, "rendering", 3.0)
    assert told[-1][:2] == (0.9999, "? on its way")
    assert len(told) < 200  # of 10,005


async def test_what_a_library_logs_comes_out_here(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    children = await start()
    assert await run(children, "speak") == "spoke"
    [record] = [record for record in caplog.records if record.name == "a.library"]
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "A library\nsays something")
    assert "ValueError: deep inside" in caplog.text


async def test_a_child_holds_no_secret_of_the_product(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRYON_SECRET_KEY", "TRYON_REDIS_URL", "TRYON_DATABASE_URL"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("MODEL_HOME", "/models")
    children = await start(secret_keys=("hush-hush" * 4,), redis_url="redis://:hush-hush@h", database_url="hush-hush")
    said = await run(children, "secrets")
    assert "hush" not in said
    assert "/models" in said


@LINUX
async def test_a_child_steps_back_leads_its_own_group_and_dumps_no_core(start: Start) -> None:
    children = await start()
    assert await run(children, "circumstances") == f"True {os.nice(0) + NICENESS} 0 ''"
    [pid] = children.pids
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"


# -- failures --------------------------------------------------------------------------


async def test_a_processors_error_arrives_with_all_it_says(start: Start) -> None:
    children = await start()
    with pytest.raises(ProcessorError) as named:
        await children.run(job("fail"), quiet)
    error = named.value
    assert (error.code, error.message, error.retryable, error.requeue) == (
        "no_person",
        "Nobody is in it.",
        False,
        False,
    )
    with pytest.raises(ProcessorError) as again:
        await children.run(job("again"), quiet)
    assert (again.value.code, again.value.retryable, again.value.requeue) == ("gpu_gone", None, True)


@pytest.mark.parametrize(
    ("do", "text"),
    [
        ("raise_error", "ValueError: deep inside"),
        ("sys_exit", "SystemExit: 3"),
        ("cancel_itself", "cancelled itself"),
        ("no_such_method", "AttributeError"),
    ],
)
async def test_any_other_exception_is_a_traceback_and_the_child_goes_on(start: Start, do: str, text: str) -> None:
    children = await start()
    with pytest.raises(RaisedInChild, match=text):
        await children.run(job(do), quiet)
    [pid] = children.pids
    assert await run(children) == str(pid)


@pytest.mark.parametrize("do", ["litter", "deaf_sigterm", "helpers"])
async def test_what_harms_nobody_ends_well(start: Start, do: str) -> None:
    children = await start()
    assert await run(children, do) in ("littered", "still here", "helped")


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
async def test_a_crash_ends_its_own_session_and_no_other(
    start: Start, neighbours: Any, caplog: pytest.LogCaptureFixture, do: str, how: str
) -> None:
    children = await start()
    end_neighbours = await neighbours(children)
    before = set(children.pids)

    assert await run(children, do) == "processor_crashed"

    assert f"The process of session s1 {how}" in caplog.text
    for pid in before - set(children.pids):
        await gone(pid)
    await end_neighbours()
    assert (await run(children)).isdigit()


@LINUX
async def test_who_eats_memory_is_killed(start: Start, neighbours: Any, caplog: pytest.LogCaptureFixture) -> None:
    children = await start(processor_memory_bytes=200 * MEGABYTE)
    end_neighbours = await neighbours(children)
    assert await run(children, "eat") == "processor_crashed"
    assert "TRYON_PROCESSOR_MEMORY_BYTES allows (209715200)" in caplog.text
    await end_neighbours()


@LINUX
async def test_what_a_session_has_kept_is_not_charged_to_the_next(start: Start) -> None:
    children = await start(processor_memory_bytes=200 * MEGABYTE)
    first = await run(children, "keep", bytes=MEGABYTE)
    assert await run(children, "keep", bytes=120 * MEGABYTE) == first
    second = await run(children, "keep", bytes=120 * MEGABYTE)
    assert second.isdigit()
    assert second != first


@pytest.mark.parametrize("do", ["spin", "spin_in_c", "spin_in_threads"])
async def test_who_spins_ends_when_the_cpu_time_is_used_up(
    start: Start, neighbours: Any, caplog: pytest.LogCaptureFixture, do: str
) -> None:
    children = await start(processor_cpu_seconds=1.0)
    end_neighbours = await neighbours(children)
    assert await run(children, do) == "timeout"
    assert "TRYON_PROCESSOR_CPU_SECONDS allows (1)" in caplog.text
    await end_neighbours()


async def test_the_cpu_time_is_each_sessions_own(start: Start) -> None:
    children = await start(processor_cpu_seconds=1.0)
    assert len({await run(children, "burn") for _ in range(6)}) == 1  # 2.4 s together


@LINUX
async def test_what_a_crashed_session_had_started_is_gone_with_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    children = await start()
    [pid] = children.pids

    assert await run(children, "orphans") == "processor_crashed"  # although they hold every file of it open

    await gone(int((tmp_path / "orphan.pid").read_text()))
    for each in [each.pid for each in psutil.process_iter() if _group(each.pid) == pid]:
        await gone(each)  # it has been killed; the kernel may need a moment


def _group(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            return os.getpgid(pid)
    return None


async def test_a_processor_that_forks_in_its_loop_speaks_once(start: Start) -> None:
    children = await start()
    [pid] = children.pids
    assert await run(children, "two_of_us") == str(pid)
    assert (await run(children)).isdigit()


# -- cancelled -------------------------------------------------------------------------


async def cancelled(children: ProcessPool, do: str) -> float:
    """How long it took, in seconds."""
    began = asyncio.Event()

    async def report(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        began.set()

    running = asyncio.create_task(children.run(job(do), report))
    if do == "report_for_ever":
        await asyncio.wait_for(began.wait(), 10)
    else:
        async with asyncio.timeout(10):
            while not children.at_work:
                await asyncio.sleep(0.01)
    asked = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    return time.monotonic() - asked


@pytest.mark.parametrize("do", ["never", "report_for_ever"])
async def test_who_hears_a_cancel_keeps_its_process(start: Start, monkeypatch: pytest.MonkeyPatch, do: str) -> None:
    children = await start(timing=Timing(stop_seconds=10))  # on a busy machine it may come late to its turn
    [pid] = children.pids
    assert await cancelled(children, do) < 5  # some milliseconds
    assert await run(children) == str(pid)


@pytest.mark.parametrize("do", ["stubborn", "spin", "spin_in_c", "in_a_thread"])
async def test_who_does_not_hear_a_cancel_is_killed_and_replaced(start: Start, do: str) -> None:
    children = await start()
    [pid] = children.pids
    assert await cancelled(children, do) < 3  # 0.3
    await gone(pid)
    assert await run(children) != str(pid)


async def test_a_cancel_while_it_warms_up_leaves_the_child_to_the_next(start: Start, tmp_path: Path) -> None:
    children = await start(processor="tests.worker.faulty:Slow", timing=Timing(idle_seconds=0.1))
    [pid] = children.pids
    told = asyncio.Event()

    async def report(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        assert stage == "warming"
        told.set()

    running = asyncio.create_task(children.run(job(), report))
    await asyncio.wait_for(told.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (tmp_path / "warm").touch()
    assert await run(children) == str(pid)


# -- processes -------------------------------------------------------------------------


async def test_a_crash_while_it_warms_up_is_not_the_sessions_fault(start: Start, tmp_path: Path) -> None:
    cold: list[Exception] = []
    children = await start(processor="tests.worker.faulty:Slow", on_start_error=cold.append)
    running = [asyncio.create_task(children.run(job(), quiet)) for _ in range(3)]
    await asyncio.sleep(0)
    (tmp_path / "new").write_text("crash")
    (tmp_path / "new").rename(tmp_path / "warm")
    assert {type(each) for each in await asyncio.gather(*running, return_exceptions=True)} == {NotStarted}
    [error] = cold
    assert "was killed by SIGABRT" in str(error)
    with pytest.raises(NotStarted):
        await children.run(job(), quiet)


async def test_a_child_that_is_killed_while_it_warms_up_is_made_again(start: Start, tmp_path: Path) -> None:
    children = await start(processor="tests.worker.faulty:Slow")
    [pid] = children.pids
    running = asyncio.create_task(run(children))
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    (tmp_path / "warm").touch()
    assert (await running).isdigit()


async def test_a_processor_is_closed_before_its_child_goes(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "warm").touch()
    children = await start(processor="tests.worker.faulty:Slow", timing=Timing(close_seconds=10))
    pid = await run(children)
    await children.close()
    assert (tmp_path / f"closed-{pid}").exists()


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        ("magic", "there is no processor 'magic'"),
        ("no.such.module:Thing", "ModuleNotFoundError"),
        ("tests.worker.faulty:Unmakeable", "no GPU here"),
        ("tests.worker.faulty:Aborting", "was killed by SIGABRT"),
        ("tests.worker.crashing:Thing", "was killed by SIGABRT"),
    ],
)
async def test_a_processor_that_cannot_be_loaded_is_told_in_one_line(
    start: Start, processor: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="TRYON_PROCESSOR") as error:
        await start(processor=processor.replace("tests.worker.crashing", "crashing"))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


async def test_a_killed_fork_server_takes_no_session_along_and_is_replaced(start: Start, neighbours: Any) -> None:
    children = await start()
    end_neighbours = await neighbours(children)
    killed = children.fork_server_pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert (await run(children)).isdigit()  # by a child of the next one
    assert children.fork_server_pid not in (None, killed)
    await end_neighbours()


def _failing(times: int) -> Callable[..., ForkServerLink]:
    left = iter(range(times))

    def start_link(*arguments: Any, **options: Any) -> ForkServerLink:
        if next(left, None) is not None:
            raise OSError("no memory")
        return ForkServerLink(*arguments, **options)

    return start_link


async def test_a_fork_server_that_cannot_be_started_for_a_moment_is_started_later(
    start: Start, neighbours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = await start(timing=Timing(restart_seconds=0.05))
    end_neighbours = await neighbours(children)  # so nobody waits for it when it dies
    monkeypatch.setattr(fork_server_link, "ForkServerLink", _failing(2))
    assert children.fork_server_pid is not None
    os.kill(children.fork_server_pid, signal.SIGKILL)
    await gone(children.fork_server_pid)
    assert (await run(children)).isdigit()
    await end_neighbours()


async def test_without_a_fork_server_no_session_is_begun(
    start: Start, neighbours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for its deadline, and so would all that come after it."""
    cold: asyncio.Queue[Exception] = asyncio.Queue()
    children = await start(on_start_error=cold.put_nowait, timing=Timing(restart_seconds=0.05))
    end_neighbours = await neighbours(children)
    monkeypatch.setattr(fork_server_link, "ForkServerLink", _failing(99))
    assert children.fork_server_pid is not None
    os.kill(children.fork_server_pid, signal.SIGKILL)
    assert "no memory" in str(await asyncio.wait_for(cold.get(), 10))
    with pytest.raises(NotStarted):
        await asyncio.wait_for(children.run(job(), quiet), 10)
    await end_neighbours()


@pytest.mark.parametrize(("times", "outcome"), [(1, "runs"), (99, "not started")])
async def test_a_fork_that_fails_is_tried_again_and_takes_nobody_along(
    start: Start, neighbours: Any, monkeypatch: pytest.MonkeyPatch, times: int, outcome: str
) -> None:
    cold: list[Exception] = []
    children = await start(on_start_error=cold.append, timing=Timing(restart_seconds=0.05))
    end_neighbours = await neighbours(children)
    server = children._fork_server
    forked, left = server._forked, iter(range(times))

    def no_memory(child: Any, pid: int) -> None:
        if next(left, None) is None:
            forked(child, pid)
        else:
            os.kill(pid, signal.SIGKILL)
            children._children.not_forked(child, "no memory")

    monkeypatch.setattr(server, "_forked", no_memory)
    if outcome == "runs":
        assert (await run(children)).isdigit()
    else:
        with pytest.raises(NotStarted):
            await asyncio.wait_for(children.run(job(), quiet), 10)
    assert bool(cold) == (outcome != "runs")
    await end_neighbours()


@pytest.mark.parametrize(("do", "outcome"), [("segfault", "processor_crashed"), ("exit_quietly", "processor_crashed")])
async def test_a_crash_is_noticed_without_a_fork_server_too(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: str, outcome: str
) -> None:
    children = await start(timing=Timing(status_seconds=0.1))
    server = children.fork_server_pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)  # it forks nothing and tells nothing
    try:
        assert await run(children, do) == outcome
        waiting = asyncio.create_task(run(children))
        await asyncio.sleep(0)
    finally:
        os.kill(server, signal.SIGCONT)
    assert (await waiting).isdigit()


async def test_a_fork_server_that_hangs_is_replaced(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    children = await start(timing=Timing(fork_seconds=0.2))
    server = children.fork_server_pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    assert await run(children, "segfault") == "processor_crashed"
    assert (await run(children)).isdigit()
    await gone(server)


async def test_an_idle_child_that_is_killed_is_not_missed(start: Start) -> None:
    children = await start()
    [pid] = children.pids
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    async with asyncio.timeout(10):
        while children.pids:
            await asyncio.sleep(0.01)
    assert await run(children) != str(pid)


async def test_close_leaves_no_process(start: Start) -> None:
    children = await start()
    running = [asyncio.create_task(run(children, do)) for do in ("spin", "stubborn", "never")]
    async with asyncio.timeout(10):
        while len(children.pids) < 3:
            await asyncio.sleep(0.01)
    pids = [*children.pids, children.fork_server_pid]
    began = time.monotonic()
    await children.close()
    assert time.monotonic() - began < 5  # 0.05
    for pid in pids:
        assert pid is not None
        await gone(pid)
    for each in running:
        each.cancel()
    await asyncio.wait(running)


async def test_the_loop_turns_while_children_spin(start: Start) -> None:
    children = await start()
    spinning = [asyncio.create_task(run(children, "spin")) for _ in range(4)]
    loop, late = asyncio.get_running_loop(), []
    async with asyncio.timeout(10):
        while len(children.pids) < 4:
            await asyncio.sleep(0.01)
    for _ in range(100):
        due = loop.time() + 0.005
        await asyncio.sleep(0.005)
        late.append(loop.time() - due)
    assert sorted(late)[90] < 0.1  # 0.001 to 0.005 on two cores
    for each in spinning:
        each.cancel()
    await asyncio.wait(spinning)
