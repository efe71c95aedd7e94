"""Runs with several outputs, previews, checkpoints, and work that goes on elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from testkit.running import until
from tests.worker.conftest import gone
from tests.worker.elsewhere import RUNS
from tests.worker.isolation.sessions import ELSEWHERE, Start, job, said
from tryon.processor import ProcessorError, Reference
from tryon.processor.conformance import Reports
from tryon.processor.validation import MAX_CHECKPOINT_BYTES
from worker.isolation.errors import Evicted, NotStarted, RaisedInChild
from worker.isolation.startup import START_TRIES
from worker.isolation.timing import Timing

HEAVY = "tests.worker.elsewhere:Heavy"


# -- outputs and words -----------------------------------------------------------------


async def test_several_outputs_come_out(start: Start) -> None:
    """Outputs arrive whole and in order, with roles and types."""
    pool = await start(processor=ELSEWHERE)
    size = 3 * 2**20
    outputs = await pool.run(job("several", bytes=size), Reports())
    assert [(each.role, each.type, len(each.data)) for each in outputs] == [
        ("result", "image/png", 5),
        ("side", "video/mp4", size),
        ("side", "image/jpeg", 2),
    ]


async def test_outputs_beyond_info_fail_run(start: Start) -> None:
    """More outputs of a role than info names are a fault of the processor."""
    pool = await start(processor=ELSEWHERE)
    with pytest.raises(RaisedInChild, match="more than 2 outputs of role side"):
        await pool.run(job("too_many"), Reports())


async def test_words_of_run_arrive(start: Start) -> None:
    """Steps, previews and usage arrive; what is none of them does not."""
    pool = await start(processor=ELSEWHERE)
    report = Reports()
    assert await said(pool, "say", report) == "said"
    assert [each[3:] for each in report.all] == [(3, 30, 2)]
    assert report.previews[0] == (b"first", "image/png")
    assert {data for data, _ in report.previews} <= {b"first", b"last"}
    assert report.usages[-1] == {"credits": 2.5, "cost_usd": 0.01, "gpu_seconds": None}


async def test_log_line_of_run_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """A line that a run logs is a line of the worker's log."""
    pool = await start(processor=ELSEWHERE)
    with caplog.at_level("INFO", logger="tryon.processor"):
        await said(pool, "say")
    assert "it goes on elsewhere" in caplog.text


async def test_pool_knows_info(start: Start) -> None:
    """What a processor says of itself is known when its first child is ready."""
    pool = await start(processor=ELSEWHERE)
    info = await asyncio.wait_for(pool.described(), 10)
    assert (info.name, info.concurrency, info.preview) == ("elsewhere", RUNS, True)
    assert [(role.name, role.types, role.count) for role in info.outputs] == [
        ("result", ("image/png",), 1),
        ("side", ("image/jpeg", "video/mp4"), 2),
    ]


# -- checkpoints -----------------------------------------------------------------------


async def test_checkpoint_is_stored_when_it_returns(start: Start) -> None:
    """A run goes on when its checkpoint is stored; one that cannot be is refused."""
    pool = await start(processor=ELSEWHERE)
    report = Reports()
    large = {"text": "x" * MAX_CHECKPOINT_BYTES}
    assert await said(pool, "save", report, checkpoints=[{"id": "a"}, ["no object"], large, {"id": "b"}]) == (
        "stored TypeError ValueError stored"
    )
    assert report.checkpoints == [{"id": "a"}, {"id": "b"}]


async def test_checkpoint_waits_for_its_commit(start: Start) -> None:
    """A run stands still while its checkpoint is being stored."""
    pool = await start(processor=ELSEWHERE)
    report, asked, commit = Reports(), asyncio.Event(), asyncio.Event()

    async def slowly(checkpoint: Any) -> None:
        asked.set()
        await commit.wait()

    report.checkpoint = slowly  # type: ignore[method-assign]
    running = asyncio.create_task(said(pool, "save", report, checkpoints=[{"id": "a"}]))
    await asyncio.wait_for(asked.wait(), 10)
    assert await said(pool, "save", checkpoints=[{"id": "b"}]) == "stored"  # the child has had its time
    assert len(pool.pids) == 1
    assert [run.answer for child in pool._children for run in child.runs.values()] == [None]
    commit.set()
    assert await running == "stored"


async def test_checkpoint_that_cannot_be_kept_spares_neighbours(start: Start) -> None:
    """A run that ends by its checkpoint is stopped in its child, beside the others."""
    pool = await start(processor=ELSEWHERE, timing=Timing(stop_seconds=10))
    await said(pool, "say")
    reports = [Reports(), Reports()]
    other = asyncio.create_task(pool.run(job("never"), reports[0]))
    await asyncio.wait_for(reports[0].reported.wait(), 10)

    async def refuse(checkpoint: Any) -> None:
        raise ValueError("it cannot be kept")

    reports[1].checkpoint = refuse  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="cannot be kept"):
        await said(pool, "save", reports[1], checkpoints=[{"id": "a"}])
    assert await said(pool, "save", checkpoints=[{"id": "b"}]) == "stored"
    assert not other.done()
    assert len(pool.pids) == 1
    other.cancel()
    await asyncio.wait({other})


async def test_lost_attempt_learns_it_at_its_checkpoint(start: Start) -> None:
    """A checkpoint that does not count any more raises AttemptLost in the run."""
    pool = await start(processor=ELSEWHERE)
    report = Reports()
    report.lost = True
    assert await said(pool, "save", report, checkpoints=[{"id": "a"}]) == "AttemptLost"


async def test_resume_gets_checkpoint(start: Start) -> None:
    """Another attempt resumes with the checkpoint of the last one."""
    pool = await start(processor=ELSEWHERE)
    checkpoint = {"id": "a", "n": [1, None, "ä"]}
    [output] = await pool.resume(job("never"), checkpoint, Reports())
    assert (pool.resumes, pool.forgets) == (True, True)
    assert json.loads(output.data) == [1, checkpoint]


async def test_processor_that_cannot_resume_runs_anew(start: Start) -> None:
    """Without the method the job is run from its beginning."""
    pool = await start()
    [output] = await pool.resume(job("echo"), {"id": "a"}, Reports())
    assert (pool.resumes, pool.forgets) == (False, False)
    assert output.data == b"a photo"


async def test_retry_after_arrives(start: Start) -> None:
    """The wait that a busy upstream asks for arrives; nonsense is 0."""
    pool = await start(processor=ELSEWHERE)
    for given, taken in ((2.5, 2.5), (-1, 0.0), ("soon", 0.0)):
        with pytest.raises(ProcessorError) as busy:
            await pool.run(job("busy", seconds=given), Reports())
        assert (busy.value.code, busy.value.retry_after) == ("backend_busy", taken)


# -- work upstream ---------------------------------------------------------------------


async def test_clean_up_runs_in_idle_child(start: Start) -> None:
    """Cancel and forget are asked of the child that waits; errors come through."""
    pool = await start(processor=ELSEWHERE)
    [pid] = pool.pids
    with pytest.raises(ProcessorError) as busy:
        await pool.cancel(Reference(key="s1-2"), {"id": "a"})
    assert (busy.value.message, busy.value.retry_after) == ("s1-2 a", 2.5)
    await pool.forget(Reference(key="s1-2"), {"id": "a"})
    assert pool.pids == [pid]


async def test_clean_up_needs_no_second_model(start: Start, tmp_path: Path) -> None:
    """A model that fits once is there for the clean-up, and for the next session."""
    errors: list[Exception] = []
    pool = await start(processor=HEAVY, options={"folder": str(tmp_path)}, on_start_error=errors.append)
    assert await said(pool, "say") == "said"
    pids = pool.pids
    await pool.forget(Reference(key="s1-2"), {"id": "a"})
    assert await said(pool, "say") == "said"
    assert (pool.pids, errors) == (pids, [])


async def test_clean_up_without_room_fails_alone(start: Start, tmp_path: Path) -> None:
    """Where no second model fits, a clean-up fails and the worker goes on."""
    errors: list[Exception] = []
    pool = await start(processor=HEAVY, options={"folder": str(tmp_path)}, on_start_error=errors.append)
    report = Reports()
    running = asyncio.create_task(said(pool, "never", report))
    await asyncio.wait_for(report.reported.wait(), 30)
    for _ in range(START_TRIES):
        with pytest.raises(NotStarted):
            await asyncio.wait_for(pool.forget(Reference(key="s1-2"), {"id": "a"}), 30)
    assert len(pool.pids) == 1
    running.cancel()
    await asyncio.wait({running})
    assert await said(pool, "say") == "said"
    assert errors == []


async def test_clean_up_has_a_bound(start: Start) -> None:
    """An upstream that does not answer ends the clean-up, not the worker."""
    pool = await start(processor=ELSEWHERE, timing=Timing(clean_up_seconds=0.1))
    with pytest.raises(TimeoutError):
        await pool.forget(Reference(key="s1-2"), {"id": "slow"})
    assert await said(pool, "say") == "said"


async def test_clean_up_takes_no_session_along(start: Start) -> None:
    """A session that begins beside a clean-up has a child that outlives it."""
    pool = await start(processor=ELSEWHERE, timing=Timing(clean_up_seconds=1))
    cleaning = asyncio.create_task(pool.forget(Reference(key="s1-2"), {"id": "slow"}))
    await until(lambda: any(child.runs for child in pool._children))
    report = Reports()
    running = asyncio.create_task(said(pool, "never", report))
    await asyncio.wait_for(report.reported.wait(), 30)
    with pytest.raises(TimeoutError):
        await cleaning
    assert [len(child.runs) for child in pool._children] == [1]
    assert await said(pool, "say") == "said"
    running.cancel()
    await asyncio.wait({running})


async def test_processor_without_upstream_has_nothing_to_clean(start: Start) -> None:
    """A processor that has neither method has no work to end."""
    pool = await start()
    await pool.cancel(Reference(key="s1-2"), {})
    await pool.forget(Reference(key="s1-2"), {})


# -- several runs in one child ---------------------------------------------------------


async def test_child_runs_as_many_as_it_may(start: Start) -> None:
    """A child has up to ``concurrency`` sessions; one more gets another child."""
    pool = await start(processor=ELSEWHERE)
    await said(pool, "say")  # it is ready, and its concurrency known
    [pid] = pool.pids
    assert await asyncio.gather(*(said(pool, "together") for _ in range(RUNS))) == [str(pid)] * RUNS
    assert pool.pids == [pid]

    report = [Reports() for _ in range(RUNS + 1)]
    running = [asyncio.create_task(said(pool, "never", each)) for each in report]
    for each in report:
        await asyncio.wait_for(each.reported.wait(), 10)
    assert len(pool.pids) == 2
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def test_cancel_ends_one_run_of_child(start: Start) -> None:
    """A cancelled run leaves the others of its child alone."""
    pool = await start(processor=ELSEWHERE, timing=Timing(stop_seconds=10))
    await said(pool, "say")
    report = Reports()
    cancelled = asyncio.create_task(said(pool, "never", report))
    await asyncio.wait_for(report.reported.wait(), 10)
    other = asyncio.create_task(said(pool, "say"))
    cancelled.cancel()
    await asyncio.wait({cancelled})
    assert await other == "said"
    assert len(pool.pids) == 1


async def test_usage_said_at_cancellation_arrives(start: Start) -> None:
    """A run that is stopped says what it has cost; its attempt's end has that."""
    pool = await start(processor=ELSEWHERE, timing=Timing(stop_seconds=10))
    report = Reports()
    running = asyncio.create_task(said(pool, "costly", report))
    await asyncio.wait_for(report.reported.wait(), 30)
    running.cancel()
    await asyncio.wait({running})
    assert [each["gpu_seconds"] for each in report.usages] == [7]


async def test_stuck_run_hands_others_back(start: Start) -> None:
    """A run that ignores its cancellation takes its child along; others run again."""
    pool = await start(processor=ELSEWHERE, timing=Timing(stop_seconds=0.05))
    await said(pool, "say")
    [pid] = pool.pids
    reports = Reports(), Reports()
    stuck = asyncio.create_task(said(pool, "stubborn", reports[0]))
    other = asyncio.create_task(pool.run(job("never"), reports[1]))
    for report in reports:
        await asyncio.wait_for(report.reported.wait(), 10)
    stuck.cancel()
    with pytest.raises(Evicted):
        await asyncio.wait_for(other, 10)
    await gone(pid)
    assert await said(pool, "say") == "said"


class Awaited(asyncio.Event):
    """An event that says when it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.begun.set()
        return await super().wait()


async def test_session_waits_for_child_that_cancels_a_run(start: Start) -> None:
    """A session joins no child that may be ended, and no second one is started."""
    pool = await start(processor=ELSEWHERE, timing=Timing(stop_seconds=60))
    await said(pool, "say")
    [pid] = pool.pids
    report = Reports()
    stuck = asyncio.create_task(said(pool, "stubborn", report))
    await asyncio.wait_for(report.reported.wait(), 10)
    stuck.cancel()
    [run] = [run for child in pool._children for run in child.runs.values()]
    await until(lambda: run.ending is not None)
    run.ending = ending = Awaited()
    joining = asyncio.create_task(said(pool, "say"))
    await asyncio.wait_for(ending.begun.wait(), 10)
    assert [child.pid for child in pool._children] == [pid]
    os.kill(pid, signal.SIGKILL)
    assert await joining == "said"
    assert pid not in pool.pids
    await asyncio.wait({stuck})


async def test_child_that_is_taken_out_hands_its_runs_back(start: Start) -> None:
    """Ending a child ends the wait of each session that it still runs."""
    pool = await start(processor=ELSEWHERE)
    report = Reports()
    running = asyncio.create_task(pool.run(job("never"), report))
    await asyncio.wait_for(report.reported.wait(), 30)
    [child] = [each for each in pool._children if each.runs]
    pool._children.end(child)
    with pytest.raises(Evicted):
        await asyncio.wait_for(running, 30)


async def test_session_that_meets_a_dead_child_has_another_one(start: Start) -> None:
    """The crash counts for the session that ran there; the next one pays nothing."""
    pool = await start(processor=ELSEWHERE)
    await said(pool, "say")
    report = Reports()
    crashed = asyncio.create_task(pool.run(job("never"), report))
    await asyncio.wait_for(report.reported.wait(), 30)
    [child] = [each for each in pool._children if each.runs]
    os.kill(child.pid, signal.SIGKILL)
    process = psutil.Process(child.pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            pass  # the loop must not learn of it before the next session comes
    assert child.has_room
    assert await said(pool, "say") == "said"
    with pytest.raises(ProcessorError, match="processor_crashed"):
        await asyncio.wait_for(crashed, 30)


async def test_child_that_has_hung_up_is_given_no_session(start: Start) -> None:
    """Nor while it is not known yet how the child has ended."""
    pool = await start(processor=ELSEWHERE, timing=Timing(status_seconds=30.0))
    await said(pool, "say")
    report = Reports()
    crashed = asyncio.create_task(pool.run(job("never"), report))
    await asyncio.wait_for(report.reported.wait(), 30)
    [child] = [each for each in pool._children if each.runs]
    fork_server = psutil.Process(pool.fork_server_pid)
    fork_server.suspend()
    try:
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.retiring)
        assert not child.has_room
    finally:
        fork_server.resume()
    assert await said(pool, "say") == "said"
    with pytest.raises(ProcessorError, match="processor_crashed"):
        await asyncio.wait_for(crashed, 30)


async def test_ended_child_ends_all_its_runs(start: Start) -> None:
    """A crash fails the sessions of its child, each with its code."""
    pool = await start(processor=ELSEWHERE)
    await said(pool, "say")
    reports = [Reports() for _ in range(2)]
    running = [asyncio.create_task(pool.run(job("never"), each)) for each in reports]
    for each in reports:
        await asyncio.wait_for(each.reported.wait(), 10)
    [pid] = pool.pids
    os.kill(pid, signal.SIGKILL)
    for ended in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(ended, ProcessorError)
        assert ended.code == "processor_crashed"
