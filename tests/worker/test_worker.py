"""A real `arq worker.Settings`: speed, outages, stops and wrong settings."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from server.adapters.redis.queue import crash_channel
from server.config.settings import Config
from testkit.fixtures import StartValkey
from tests.worker.conftest import Feed, StartWorker, until
from tryon.protocol.states import Event, Status
from worker.pickup import POLL_SECONDS

OpenFeed = Callable[[Config], Awaitable[Feed]]
MakeConfig = Callable[..., Config]


async def test_session_completes_and_is_logged(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """The log lines of a session carry the request id of its upload."""
    settings = config()
    feed = await feeds(settings)
    process = await worker(settings)

    session = await feed.submit(garment=True, request_id="upload-1")
    story = await feed.reaches(session.id)

    assert [event.event for event in story.events] == [Event.CREATED, Event.PROCESSING, Event.COMPLETED]
    assert story.session.outputs[0].key == f"outputs/{session.id}-1-result-0.jpg"
    assert (await feed.services.files.get(story.session.outputs[0].key)).startswith(b"\xff\xd8\xff")
    await process.line(rf"Session {session.id} completed successfully")
    reported = [line.partition("INFO")[2].strip() for line in process.errors if "INFO" in line]
    reported = [line for line in reported if not line.startswith("Sandbox of")]  # of the worker, not of a session
    assert reported == [
        "Session state transition: created → processing (request upload-1)",
        f"Processing session {session.id} (request upload-1)",
        "Session state transition: processing → completed (request upload-1)",
        f"Session {session.id} completed successfully (request upload-1)",
    ]
    assert "run_session" not in process.output.partition("Processing session")[2]  # arq itself keeps quiet

    async def nothing_left() -> bool:
        return [key async for key in feed.services.redis.scan_iter("arq:*")] == []

    await until(nothing_left)  # arq tidies up after the line is logged


async def test_lines_carry_their_own_request(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """Sessions that run at once do not mix their request ids."""
    settings = config(mock_seconds=0.3, mock_failure_rate=1.0, worker_jobs=4)
    feed = await feeds(settings)
    process = await worker(settings, TRYON_LOG_FORMAT="json")
    uploads = {(await feed.submit(request_id=f"upload-{n}")).id: f"upload-{n}" for n in range(4)}
    for session_id in uploads:
        await feed.reaches(session_id)
        await process.line(f"Session {session_id} failed: mock_failure")

    lines = [json.loads(line) for line in process.errors if "Sandbox of" not in line]  # of the worker, not of a session

    assert len(lines) == 4 * 4
    assert all(line["request_id"] in uploads.values() for line in lines)
    for session_id, upload in uploads.items():
        about = [line for line in lines if session_id in line["message"] or line.get("session_id") == session_id]
        assert [line["request_id"] for line in about] == [upload] * 4


async def test_jobs_start_within_milliseconds(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time from the queue to the claim is short."""
    settings = config(mock_seconds=0)
    feed = await feeds(settings)
    await worker(settings)
    await feed.workers()
    waits = []
    for _ in range(40):
        accepted = await feed.submit()
        story = await feed.reaches(accepted.id)
        waits.append((story.events[1].at - story.events[0].at).total_seconds() * 1000)
    waits = sorted(waits[1:])  # the first one meets cold code
    p50, p95 = waits[len(waits) // 2], waits[int(len(waits) * 0.95)]
    with capsys.disabled():
        print(f"\ncreated -> processing, both committed: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    assert p50 < POLL_SECONDS * 500  # 2-4 on an idle machine; polled, each would wait for almost all of the interval


async def test_freed_slot_takes_next_session(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """A full worker takes the next session when one has ended."""
    settings = config(mock_seconds=0.1, worker_jobs=1)
    feed = await feeds(settings)
    sessions = [await feed.submit() for _ in range(6)]
    await worker(settings)

    stories = [await feed.reaches(session.id) for session in sessions]
    gaps = [(story.events[1].at - before.events[-1].at).total_seconds() for before, story in pairwise(stories)]
    assert min(gaps) >= 0
    assert min(gaps) < POLL_SECONDS * 0.4  # 0.005 on an idle machine; nothing rings, and polled each would be 0.4


async def test_jobs_stay_within_their_number(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """No more sessions run at once than configured."""
    settings = config(mock_seconds=0.2, worker_jobs=3)
    feed = await feeds(settings)
    sessions = [await feed.submit() for _ in range(10)]
    await worker(settings)
    changes = []
    for session in sessions:
        for event in (await feed.reaches(session.id)).events[1:]:
            changes.append((event.at, 1 if event.event is Event.PROCESSING else -1))
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    assert most == 3


@pytest.mark.parametrize("demo", ["yes", "no"])
async def test_worker_crashes_when_asked_in_demo_mode(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, demo: str
) -> None:
    """If it runs that session; outside of the demo mode it does not listen."""
    settings = config(mock_seconds=60.0 if demo == "yes" else 3.0, lease_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings, TRYON_DEMO=demo)
    channel = crash_channel(settings.key_prefix)

    async def heard() -> bool:
        [(_, listeners)] = await feed.services.redis.pubsub_numsub(channel)
        return bool(listeners)

    await feed.workers()
    if demo == "yes":
        await until(heard)
    assert await heard() is (demo == "yes")
    session = await feed.submit()
    await feed.reaches(session.id, Status.PROCESSING)
    await feed.services.queue.ring_cancel("of another session", crash=True)
    await feed.services.queue.ring_cancel(session.id, crash=True)
    if demo == "yes":
        assert await process.wait() == -signal.SIGKILL
    else:
        assert (await feed.reaches(session.id)).session.status is Status.COMPLETED


@pytest.mark.slow
async def test_redis_restart_costs_no_session(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, start_valkey: StartValkey
) -> None:
    """A session that runs while Redis restarts completes, and new ones run."""
    valkey = start_valkey()
    settings = config(redis_url=valkey.url, mock_seconds=3.0)
    feed = await feeds(settings)
    process = await worker(settings)
    running = await feed.submit()
    await feed.reaches(running.id, Status.PROCESSING)

    valkey.kill()
    await process.line("Redis unavailable")
    assert (await feed.reaches(running.id)).session.status is Status.COMPLETED  # needs no Redis
    lost = await feed.submit()  # cannot be queued now
    valkey.start()

    back = time.monotonic()
    fresh = await feed.submit()
    await feed.reaches(fresh.id, Status.PROCESSING, Status.COMPLETED)
    assert time.monotonic() - back < 20  # 1 on an idle machine
    assert (await feed.reaches(lost.id)).session.status is Status.COMPLETED  # the reconciler's
    assert process.process.returncode is None
    assert "Traceback" not in process.output


async def test_worker_starts_before_redis(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, start_valkey: StartValkey
) -> None:
    """A worker that finds no Redis, and may start without it, waits for it."""
    valkey = start_valkey()
    settings = config(redis_url=valkey.url)
    feed = await feeds(settings)
    valkey.kill()
    process = await worker(settings, TRYON_START_CHECK="no")
    await process.line("Redis unavailable")

    valkey.start()

    session = await feed.submit()
    assert (await feed.reaches(session.id)).session.status is Status.COMPLETED


async def test_cut_doorbell_is_restored(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """A worker subscribes again when its connection was killed."""
    settings = config(mock_seconds=0)
    feed = await feeds(settings)
    await worker(settings)
    await feed.workers()
    channel = f"{settings.key_prefix}doorbell"

    async def listens() -> bool:
        return bool((await feed.services.redis.pubsub_numsub(channel))[0][1])

    await until(listens)
    await feed.services.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
    session = await feed.submit()
    await feed.reaches(session.id)
    await until(listens)


async def test_sigterm_hands_sessions_back(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """Sessions that outlast the drain are handed back unburnt."""
    settings = config(mock_seconds=60, drain_seconds=0.3, lease_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings)
    sessions = [await feed.submit() for _ in range(3)]
    for session in sessions:
        await feed.reaches(session.id, Status.PROCESSING)

    asked = time.monotonic()
    assert await process.stop(signal.SIGTERM) == 0

    assert time.monotonic() - asked < settings.drain_seconds + 10  # 0.2 on an idle machine
    for session in sessions:
        story = await feed.story(session.id)
        assert story.session.status is Status.CREATED
        assert story.session.burnt == 0
        assert story.events[-1].event is Event.REQUEUED
        assert story.events[-1].data == {"reason": "drained"}
        assert await feed.queued(session)  # for the next worker, at once
    assert await feed.services.queue.workers() == {}
    assert "Traceback" not in process.output


async def test_sigterm_drains_short_sessions(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """Sessions that end within the drain complete."""
    settings = config(mock_seconds=2.0, drain_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit()
    await feed.reaches(session.id, Status.PROCESSING)

    asked = time.monotonic()
    assert await process.stop(signal.SIGTERM) == 0

    assert time.monotonic() - asked < 20  # 2 on an idle machine: not longer than there is something to wait for
    assert (await feed.story(session.id)).session.status is Status.COMPLETED


async def test_idle_worker_stops_without_redis(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, start_valkey: StartValkey
) -> None:
    """An idle worker stops at once while Redis is unavailable."""
    valkey = start_valkey()
    settings = config(redis_url=valkey.url, drain_seconds=60)
    feed = await feeds(settings)
    process = await worker(settings)
    await feed.workers()
    valkey.kill()
    await process.line("Redis unavailable")

    asked = time.monotonic()
    assert await process.stop(signal.SIGTERM) == 0
    assert time.monotonic() - asked < 20  # 0.2 on an idle machine


async def test_session_of_killed_worker_runs_again(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """Another worker takes the session when its lease has lapsed."""
    settings = config(mock_seconds=60, lease_seconds=1.0)
    feed = await feeds(settings)
    process = await worker(settings)
    session = await feed.submit()
    await feed.reaches(session.id, Status.PROCESSING)
    process.process.kill()
    await process.wait()

    await worker(config(mock_seconds=0, lease_seconds=1.0))
    story = await feed.reaches(session.id)

    assert [event.event for event in story.events][1:] == [
        Event.PROCESSING,
        Event.REQUEUED,
        Event.PROCESSING,
        Event.COMPLETED,
    ]
    assert (story.session.attempt, story.session.burnt) == (2, 1)


async def test_repeated_job_has_one_end(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """A job that is delivered five times runs once."""
    settings = config(mock_seconds=0.2)
    feed = await feeds(settings)
    session = await feed.submit()
    for n in range(2, 6):  # beside its own
        await feed.services.queue.enqueue(session.id, 0, n, score_ms=n)
    assert await feed.services.queue.depth() == 5
    await worker(settings)
    await worker(settings)
    await feed.reaches(session.id)
    for n in range(1, 6):  # and again after its end
        await feed.services.queue.enqueue(session.id, 0, n, score_ms=n)
    last = await feed.submit()
    await feed.reaches(last.id, Status.COMPLETED)  # behind them in the queue
    story = await feed.story(session.id)
    assert [event.event for event in story.events] == [Event.CREATED, Event.PROCESSING, Event.COMPLETED]
    results = [path.name for path in settings.uploads_dir.glob(f"outputs/{session.id}*")]
    assert len(results) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRYON_WORKER_JOBS", "many"),
        ("TRYON_WROKER_JOBS", "10"),
        ("TRYON_PROCESSOR", "magic"),
        ("TRYON_PROCESSOR", "no.such.module:Thing"),
    ],
)
async def test_wrong_setting_is_one_line(config: MakeConfig, worker: StartWorker, variable: str, value: str) -> None:
    """A wrong setting is one line on standard error, and exit status 2."""
    process = await worker(config(), **{variable: value})
    assert await process.wait() == 2
    assert len(process.errors) == 1
    assert variable in process.errors[0]


async def test_missing_redis_address_is_one_line(config: MakeConfig, worker: StartWorker) -> None:
    """A worker without an address of Redis says so in one line."""
    process = await worker(config(), TRYON_REDIS_URL="")
    assert await process.wait() == 2
    assert len(process.errors) == 1
    assert "TRYON_REDIS_URL" in process.errors[0]


async def test_arq_health_check_finds_worker(config: MakeConfig, worker: StartWorker, feeds: OpenFeed) -> None:
    """`arq --check worker.Settings` works."""
    settings = config()
    feed = await feeds(settings)
    await worker(settings)

    async def recorded() -> bool:
        return bool(await feed.services.redis.exists(f"{settings.queue_name}:health-check"))

    await asyncio.wait_for(until(recorded), 10)
