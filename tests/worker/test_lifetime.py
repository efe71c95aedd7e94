"""A worker's start and stop, with processors that warm up, fail or ignore it."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from server.config.settings import Config
from server.domain.session import Session
from testkit.fixtures import StartValkey
from testkit.locks import write_locked
from testkit.proxy import running_proxy
from tests.worker.conftest import Feed, StartWorker, until
from tryon.protocol.states import Event, Status

OpenFeed = Callable[[Config], Awaitable[Feed]]
MakeConfig = Callable[..., Config]

# Its start() ends when a file in `verdicts` appears: well if it says so.
SLOW_STARTER = """
import asyncio
from pathlib import Path
from tryon.processor import Info, Output, OutputRole
from tryon.processor.conformance import sample_photo

class SlowStarter:
    info = Info(name="slow-starter", outputs=(OutputRole(types=("image/png",)),))

    async def start(self):
        while not (verdict := Path("verdicts/verdict")).exists():
            await asyncio.sleep(0.01)
        if verdict.read_text() != "warm":
            raise RuntimeError("no weights")

    async def run(self, job, report):
        return Output(sample_photo(), "image/png")

    async def close(self):
        print("closed", flush=True)
"""

# What a badly plugged model may do: a thread that hears nothing, a close() that never
# ends.
STUBBORN = """
import asyncio, time
from tryon.processor import Info

class Stubborn:
    info = Info(name="stubborn")

    async def run(self, job, report):
        print("began", flush=True)
        await asyncio.to_thread(time.sleep, 60)

    async def close(self):
        await asyncio.Event().wait()
"""


# It works until it is used; no other process of it starts.
WORN_OUT = """
import os
from pathlib import Path
from tryon.processor import Info

class WornOut:
    info = Info(name="worn-out")

    async def start(self):
        if Path("verdicts/verdict").exists():
            raise RuntimeError("no memory")

    async def run(self, job, report):
        os._exit(1)
"""

BROKEN_STARTER = """
from tryon.processor import Info


class Broken:
    info = Info(name="broken")

    async def start(self):
        raise RuntimeError("no weights")

    async def run(self, job, report): ...
"""


def write_slow_starter(folder: Path) -> None:
    (folder / "starter.py").write_text(SLOW_STARTER)
    (folder / "verdicts").mkdir()  # a new entry beside the data folder would be hidden


async def warming(feed: Feed, session: Session) -> None:
    """Wait until the session reports that its processor warms up."""

    async def reported() -> bool:
        progress = (await feed.services.bus.last_progress([session.id])).get(session.id)
        return progress is not None and progress.stage == "warming"

    await feed.reaches(session.id, Status.PROCESSING)
    await until(reported)


async def test_session_reports_warming_then_runs(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """A session that waits for its processor says so; a later one does not."""
    write_slow_starter(tmp_path)
    settings = config(processor="starter:SlowStarter")
    feed = await feeds(settings)
    process = await worker(settings)
    early = await feed.submit()
    await warming(feed, early)

    verdict = tmp_path / "verdicts/new"
    verdict.write_text("warm")
    verdict.rename(tmp_path / "verdicts/verdict")

    assert (await feed.reaches(early.id)).session.status is Status.COMPLETED
    late = await feed.submit()
    assert (await feed.reaches(late.id)).session.status is Status.COMPLETED
    assert await feed.services.bus.last_progress([late.id]) == {}  # nothing to wait for any more
    assert await process.stop() == 0
    assert "closed" in process.lines


async def test_failed_start_stops_worker(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """A processor that cannot start stops the worker, and burns no attempt."""
    write_slow_starter(tmp_path)
    settings = config(processor="starter:SlowStarter", drain_seconds=60, lease_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings)
    sessions = [await feed.submit() for _ in range(3)]
    for session in sessions:
        await warming(feed, session)

    verdict = tmp_path / "verdicts/new"
    verdict.write_text("cold")
    verdict.rename(tmp_path / "verdicts/verdict")

    assert await process.wait() == 2
    [line] = [line for line in process.errors if line.startswith("tryon: ")]
    assert line.startswith(
        "tryon: TRYON_PROCESSOR: 'starter:SlowStarter' did not start (RuntimeError: no weights, starter.py:"
    )
    for session in sessions:
        story = await feed.story(session.id)
        assert [event.event for event in story.events] == [Event.CREATED, Event.PROCESSING, Event.REQUEUED]
        assert story.events[-1].data == {"reason": "not_started"}
        assert story.session.burnt == 0
        assert await feed.queued(session)  # not taken once more


async def test_failed_start_is_reported_when_redis_hangs(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, start_valkey: StartValkey, tmp_path: Path
) -> None:
    """A worker that cannot close in time says first why it ends."""
    write_slow_starter(tmp_path)
    valkey = start_valkey()
    settings = config(processor="starter:SlowStarter", redis_url=valkey.url)
    feed = await feeds(settings)
    process = await worker(settings)
    await feed.workers()

    valkey.pause()
    try:
        verdict = tmp_path / "verdicts/new"
        verdict.write_text("cold")
        verdict.rename(tmp_path / "verdicts/verdict")
        assert await process.wait(35) == 2
    finally:
        valkey.resume()

    assert [line for line in process.errors if "did not start (RuntimeError: no weights" in line]


async def test_processor_that_has_worked_fails_with_trace(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """Later failures are logged; the line does not blame the setting."""
    (tmp_path / "worn.py").write_text(WORN_OUT)
    (tmp_path / "verdicts").mkdir()
    settings = config(processor="worn:WornOut")
    feed = await feeds(settings)
    process = await worker(settings)

    async def published() -> bool:
        return any(row.living for row in await feed.services.database.processors.all())

    await until(published)
    (tmp_path / "verdicts/verdict").touch()
    session = await feed.submit()
    assert (await feed.reaches(session.id)).session.error_code == "processor_crashed"
    assert await process.wait(35) == 2

    logged = process.output.partition("The processor worn:WornOut cannot be started any more")[2]
    assert "Traceback" in logged and "RuntimeError: no memory" in logged
    [line] = [line for line in process.errors if line.startswith("tryon: ")]
    assert "has worked" in line and "TRYON_PROCESSOR" not in line


async def test_worker_runs_without_a_failed_fallback(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """The first processor judges uploads and runs sessions; the error is logged."""
    (tmp_path / "broken.py").write_text(BROKEN_STARTER)
    settings = config(processor="mock,broken:Broken", mock_seconds=0.01, mock_failure_rate=0.0)
    feed = await feeds(settings)
    process = await worker(settings, TRYON_PROCESSOR=settings.processor)
    await process.line("The processor broken:Broken did not start; the worker goes on without it")

    async def published() -> bool:
        return any(row.living for row in await feed.services.database.processors.all())

    await until(published)
    session = await feed.submit()
    assert (await feed.reaches(session.id)).session.status is Status.COMPLETED
    assert await process.stop() == 0


async def test_worker_stops_while_warming(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """A worker that stops while its processor warms up hands its session back."""
    write_slow_starter(tmp_path)
    settings = config(processor="starter:SlowStarter", drain_seconds=0.2)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit()
    await warming(feed, session)

    assert await process.stop() == 0

    story = await feed.story(session.id)
    assert (story.session.status, story.events[-1].data) == (Status.CREATED, {"reason": "drained"})
    assert "Traceback" not in process.output
    assert "ERROR" not in process.output


async def test_idle_worker_stops_at_once(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker without a session does not wait for its drain."""
    settings = config(drain_seconds=30)
    feed = await feeds(settings)
    process = await worker(settings)
    await feed.workers()
    done = await feed.submit()
    await feed.reaches(done.id)

    asked = time.monotonic()
    assert await process.stop() == 0

    seconds = time.monotonic() - asked
    with capsys.disabled():
        print(f"\nSIGTERM -> gone, no work: {seconds:.2f} s")
    assert seconds < 20  # 0.1 on an idle machine; the drain would take 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_busy_worker_stops_after_drain(
    config: MakeConfig,
    worker: StartWorker,
    feeds: OpenFeed,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """A worker with ten sessions ends soon after its drain."""
    settings = config(mock_seconds=60, drain_seconds=1.0)
    feed = await feeds(settings)
    process = await worker(settings)
    sessions = [await feed.submit() for _ in range(settings.worker_jobs)]
    for session in sessions:
        await feed.reaches(session.id, Status.PROCESSING)

    asked = time.monotonic()
    assert await process.stop(number) == 0

    seconds = time.monotonic() - asked
    with capsys.disabled():
        print(f"\n{number.name} -> gone, ten sessions running, drain of 1 s: {seconds:.2f} s")
    assert 0.9 < seconds < settings.drain_seconds + 10  # 1.15 on an idle machine
    for session in sessions:
        assert await feed.queued(session)


async def test_stubborn_processor_does_not_keep_worker(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, tmp_path: Path
) -> None:
    """A thread that works on and a close() without an end do not keep a worker."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    settings = config(processor="stubborn:Stubborn", drain_seconds=0.2)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit()
    await process.line("began")

    asked = time.monotonic()
    assert await process.stop() == 0

    assert time.monotonic() - asked < settings.drain_seconds + 10  # 0.2 + 0.3 + 0.5 on an idle machine
    assert (await feed.story(session.id)).session.status is Status.CREATED


async def test_hanging_redis_does_not_keep_worker(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, start_valkey: StartValkey
) -> None:
    """A worker ends although Redis answers nothing."""
    valkey = start_valkey()
    settings = config(redis_url=valkey.url, mock_seconds=60, drain_seconds=0.2)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit()
    await feed.reaches(session.id, Status.PROCESSING)

    valkey.pause()
    try:
        asked = time.monotonic()
        assert await process.stop() == 0
        seconds = time.monotonic() - asked
    finally:
        valkey.resume()

    assert seconds < settings.drain_seconds + 35  # 3.5 on an idle machine, most of it one time-out, tried twice
    assert (await feed.story(session.id)).session.status is Status.CREATED


async def test_blocked_database_does_not_keep_worker(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, database_url: str
) -> None:
    """A worker that cannot hand its sessions back ends; their leases will lapse."""
    settings = config(mock_seconds=60, drain_seconds=0.2)
    feed = await feeds(settings)
    process = await worker(settings)
    sessions = [await feed.submit() for _ in range(3)]
    for session in sessions:
        await feed.reaches(session.id, Status.PROCESSING)

    async with write_locked(database_url):
        asked = time.monotonic()
        assert await process.stop() == 0
        seconds = time.monotonic() - asked

    assert seconds < settings.drain_seconds + 17  # ten times what an idle machine takes, to settle and to close
    assert "Traceback" not in process.output


async def test_silent_database_does_not_keep_starting_worker(config: MakeConfig, worker: StartWorker) -> None:
    """A worker that is told to stop while its database takes no word ends at once."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+asyncpg://x@127.0.0.1:{silent.getsockname()[1]}/x"
        process = await worker(config(database_url=url))
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            asked = time.monotonic()
            assert await process.stop() == 0
            assert time.monotonic() - asked < 5  # the connection's own time-out


async def test_repeated_claim_does_not_keep_worker(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, postgres_url: str
) -> None:
    """A worker that repeats a claim on an unavailable database stops at once."""
    url = make_url(postgres_url)
    assert url.port is not None
    async with running_proxy(url.port) as proxy:
        feed = await feeds(config(database_url=postgres_url))
        broken = url.set(port=proxy.port).render_as_string(hide_password=False)
        process = await worker(config(database_url=broken, drain_seconds=30))
        await feed.workers()
        await proxy.refuse()
        proxy.cut()
        session = await feed.submit()
        await process.line(f"Session {session.id} could not be claimed now: The database cannot be used right now.")

        asked = time.monotonic()
        assert await process.stop() == 0
        assert time.monotonic() - asked < 20  # 0.5 on an idle machine; the drain would take 30


async def test_stopping_worker_takes_no_job(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """A job that comes while a worker stops waits for another one."""
    settings = config(mock_seconds=60, drain_seconds=1.0)
    feed = await feeds(settings)
    process = await worker(settings)
    running = await feed.submit()
    await feed.reaches(running.id, Status.PROCESSING)
    process.process.send_signal(signal.SIGTERM)

    late = [await feed.submit() for _ in range(3)]  # the first may come before the signal, if the machine is busy
    assert await process.wait() == 0

    assert [(await feed.story(each.id)).session.attempt for each in late[1:]] == [0, 0]
