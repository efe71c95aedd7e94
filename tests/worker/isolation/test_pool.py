"""One session after the other: its job, its answer, its cancellation."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.config.settings import ConfigError
from server.config.storage_url import parse_storage_url
from testkit.jobs import input_of, job_of
from tests.worker.conftest import gone
from tests.worker.isolation.sessions import LINUX, MEGABYTE, PATIENT, Start, Waiting, job, run
from tryon.processor import Job, ProcessorError
from tryon.processor.conformance import Reports
from worker.isolation.errors import RaisedInChild
from worker.isolation.pool import NICENESS, ProcessPool
from worker.isolation.timing import Timing

# -- in good order ---------------------------------------------------------------------


async def test_job_goes_in_output_comes_out(start: Start) -> None:
    """Photos, params and numbers reach the processor whole, its output comes back."""
    pool = await start()
    photo, garment = os.urandom(5 * MEGABYTE), os.urandom(MEGABYTE)
    [output] = await pool.run(job_of(photo, garment=garment, params={"do": "echo"}), Reports())
    assert (output.data, output.type, output.role) == (photo + garment, "image/png", "result")

    params = {"do": "describe", "more": {"n": 2**70, "f": 0.1, "s": "ä\u2028😀", "x": [None, True]}}
    photos = (input_of(b"x", "image/webp"), input_of(b"yy", "image/png", role="garment", index=1))
    photos = (replace(photos[0], sha256="a" * 64, width=3), photos[1])
    more: dict[str, Any] = {"attempts_left": 2, "seed": 2**31 - 1, "deadline_at": 1.5e9, "trace": "00-1-2-01"}
    [said] = await pool.run(Job(session_id="s2", attempt=3, inputs=photos, params=params, **more), Reports())
    inputs = [("person", 0, "image/webp", 1, "a" * 64, 3), ("garment", 1, "image/png", 2, "", 0)]
    expected = ("s2", 3, 2, inputs, 2**31 - 1, 1.5e9, "00-1-2-01", "s2-3")
    assert said.data.decode() == f"{expected} 2 {params['more']}"


async def test_start_of_a_further_child_moves_the_deadline(start: Start) -> None:
    """The time that it takes is none of its session's."""
    # On a stalled machine another fork server would come, and with it another child.
    pool = await start(timing=Timing(fork_seconds=60, status_seconds=60))
    waiting = Waiting(pool)  # the one child is at work, and takes no other session
    await waiting.reached()
    asked: list[bool] = []

    async def starting(ready: asyncio.Future[None]) -> float:
        asked.append(ready.done())
        await asyncio.wait({ready})
        return 2.5e9

    [said] = await pool.run(job("describe", more=1), Reports(), starting)
    assert asked == [False]
    assert "2500000000.0" in said.data.decode()
    await waiting.end()


async def test_child_that_is_ready_moves_no_deadline(start: Start) -> None:
    """A session on the idle child waits for no start."""
    pool = await start(timing=Timing(fork_seconds=60, status_seconds=60))
    await run(pool)

    async def starting(ready: asyncio.Future[None]) -> float:
        raise AssertionError("nothing starts")

    [said] = await pool.run(job("describe", more=1), Reports(), starting)
    assert str(job().deadline_at) in said.data.decode()


async def test_child_is_used_again(start: Start) -> None:
    """A child runs session after session; of many idle ones, one is kept."""
    pool = await start(timing=Timing(idle_seconds=0.05))
    [first] = pool.pids
    assert {await run(pool) for _ in range(3)} == {str(first)}

    many = [Waiting(pool) for _ in range(10)]
    for each in many:
        await each.reached()
    pids = pool.pids
    assert len(pids) == 10
    for each in many:
        assert await each.end() == "waited"

    async with asyncio.timeout(10):
        while len(pool.pids) > 1:
            await asyncio.sleep(0.01)
    [left] = pool.pids
    for pid in set(pids) - {left}:
        await gone(pid)
    assert await run(pool) == str(left)


async def test_next_session_finds_idle_child(start: Start) -> None:
    """A full worker's next session comes milliseconds after the last one's end."""
    pool = await start()
    pair = [Waiting(pool) for _ in range(2)]
    for each in pair:
        await each.reached()
    both = pool.pids
    for each in pair:
        await each.end()
    again = [Waiting(pool) for _ in range(2)]
    for each in again:
        await each.reached()
    assert pool.pids == both
    for each in again:
        await each.end()


async def test_reports_are_coalesced(start: Start) -> None:
    """Of many reports the newest go out; values that are no numbers harm nothing."""
    pool = await start()
    report = Reports()
    [output] = await pool.run(job("report"), report)
    assert output.data == b"reported"
    assert report.all[0][:3] == (0.25, "rendering", 3.0)
    assert report.all[-1][:2] == (0.9999, "? on its way")
    assert len(report.all) < 1000  # of 10,005; 10 on an idle machine


async def test_log_lines_reach_worker(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """A line that a library logs in the child is logged by the worker."""
    pool = await start()
    assert await run(pool, "speak") == "spoke"
    [record] = [record for record in caplog.records if record.name == "a.library"]
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "A library\nsays something")
    assert "ValueError: deep inside" in caplog.text


async def test_child_holds_no_secret(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor the memory of a child has a secret of the product."""
    for name in ("TRYON_SECRET_KEY", "TRYON_REDIS_URL", "TRYON_DATABASE_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("MODEL_HOME", "/models")
    pool = await start(
        secret_keys=("hush-hush" * 4,),
        redis_url="redis://:hush-hush@h",
        database_url="postgresql+asyncpg://hush-hush/x",
        storage_url=parse_storage_url("s3://photos"),
    )
    said = await run(pool, "secrets")
    assert "hush" not in said
    assert "/models" in said


@LINUX
async def test_child_process_is_set_apart(start: Start) -> None:
    """A child steps back, leads a group of its own and dumps no core."""
    pool = await start()
    assert await run(pool, "circumstances") == f"True {os.nice(0) + NICENESS} 0 ''"
    [pid] = pool.pids
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"


# -- failures --------------------------------------------------------------------------


async def test_processor_error_arrives_whole(start: Start) -> None:
    """Code, message and flags of a processor's error arrive unchanged."""
    pool = await start()
    with pytest.raises(ProcessorError) as named:
        await pool.run(job("fail"), Reports())
    error = named.value
    assert (error.code, error.message, error.retryable, error.requeue) == (
        "no_person",
        "Nobody is in it.",
        False,
        False,
    )
    with pytest.raises(ProcessorError) as again:
        await pool.run(job("again"), Reports())
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
async def test_other_exception_is_a_traceback(start: Start, do: str, text: str) -> None:
    """Any other exception arrives as its traceback, and the child goes on."""
    pool = await start()
    with pytest.raises(RaisedInChild, match=text):
        await pool.run(job(do), Reports())
    [pid] = pool.pids
    assert await run(pool) == str(pid)


@pytest.mark.parametrize("do", ["litter", "deaf_sigterm", "helpers"])
async def test_harmless_misbehaviour_ends_well(start: Start, do: str) -> None:
    """Noise on its output, ignored signals and helper processes do no harm."""
    pool = await start()
    assert await run(pool, do) in ("littered", "still here", "helped")


# -- cancelled -------------------------------------------------------------------------


async def cancelled(pool: ProcessPool, do: str) -> float:
    """Cancel a running session, and return the seconds until it has ended."""
    report = Reports()
    running = asyncio.create_task(pool.run(job(do), report))
    await asyncio.wait_for(report.reported.wait(), 10)  # a run that has not begun is not stubborn
    asked = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    return time.monotonic() - asked


@pytest.mark.parametrize("do", ["never", "report_for_ever"])
async def test_cancelled_child_is_used_again(start: Start, monkeypatch: pytest.MonkeyPatch, do: str) -> None:
    """A processor that lets its cancellation through keeps its process."""
    pool = await start(timing=Timing(stop_seconds=10))  # on a busy machine it may come late to its turn
    [pid] = pool.pids
    assert await cancelled(pool, do) < 5  # some milliseconds
    assert await run(pool) == str(pid)


@pytest.mark.parametrize("do", ["stubborn", "spin", "spin_in_c", "in_a_thread"])
async def test_stubborn_child_is_replaced(start: Start, do: str) -> None:
    """A processor that ignores its cancellation is killed, the next session runs."""
    pool = await start()
    [pid] = pool.pids
    assert await cancelled(pool, do) < 9  # 0.3 on an idle machine
    await gone(pid)
    assert await run(pool) != str(pid)


@pytest.mark.parametrize("name", ["Slow", "Wrapped"])
async def test_cancel_while_warming_spares_child(start: Start, tmp_path: Path, name: str) -> None:
    """A session that is cancelled while it waits leaves the child to the next."""
    pool = await start(processor=f"tests.worker.faulty:{name}", timing=Timing(idle_seconds=0.1))
    [pid] = pool.pids
    report = Reports()
    running = asyncio.create_task(pool.run(job(), report))
    await asyncio.wait_for(report.reported.wait(), 10)
    assert [each.stage for each in report.all] == ["warming"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (tmp_path / "warm").touch()
    assert await run(pool) == str(pid)


# -- processes -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Slow", "Wrapped"])
async def test_processor_is_closed_with_pool(start: Start, tmp_path: Path, name: str) -> None:
    """An idle child closes its processor, also a wrapped one, before it ends."""
    (tmp_path / "warm").touch()
    pool = await start(processor=f"tests.worker.faulty:{name}", timing=Timing(close_seconds=10))
    pid = await run(pool)
    await pool.close()
    assert (tmp_path / f"closed-{pid}").read_text() == "closed"


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
async def test_unloadable_processor_is_one_line(
    start: Start, processor: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that cannot be loaded or made is one line with the reason."""
    (tmp_path / "crashing.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="TRYON_PROCESSOR") as error:
        await start(processor=processor.replace("tests.worker.crashing", "crashing"), timing=PATIENT)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


async def test_close_leaves_no_process(start: Start) -> None:
    """Busy and stubborn children end with the pool."""
    pool = await start()
    running = [asyncio.create_task(run(pool, do)) for do in ("spin", "stubborn", "never")]
    async with asyncio.timeout(10):
        while len(pool.pids) < 3:
            await asyncio.sleep(0.01)
    pids = [*pool.pids, pool.fork_server_pid]
    began = time.monotonic()
    await pool.close()
    assert time.monotonic() - began < 10  # 0.05 on an idle machine
    for pid in pids:
        assert pid is not None
        await gone(pid)
    for each in running:
        each.cancel()
    await asyncio.wait(running)


async def test_spinning_children_spare_event_loop(start: Start) -> None:
    """The worker's event loop is on time while four children spin."""
    pool = await start()
    spinning = [asyncio.create_task(run(pool, "spin")) for _ in range(4)]
    loop, late = asyncio.get_running_loop(), []
    async with asyncio.timeout(10):
        while len(pool.pids) < 4:
            await asyncio.sleep(0.01)
    for _ in range(100):
        due = loop.time() + 0.005
        await asyncio.sleep(0.005)
        late.append(loop.time() - due)
    assert sorted(late)[50] < 0.1  # 0.001 to 0.005 on two cores
    for each in spinning:
        each.cancel()
    await asyncio.wait(spinning)


async def test_error_that_cannot_be_passed_on_ends_the_session_at_once(start: Start) -> None:
    """A child that cannot answer ends, before the deadline of its session."""
    pool = await start()
    assert await run(pool, "unspeakable") == "processor_crashed"
    assert (await run(pool)).isdigit()
