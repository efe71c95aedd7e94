"""Every end of a processor becomes an end of its session.

Real services, scripted processors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from server.config.settings import Config
from server.services import Services, open_services
from tests.worker.conftest import Feed, until
from tests.worker.scripted import Play, Scripted, Trusting, done, forever, play, raising
from tryon.processor import Job, Output, ProcessorError, Report, Result
from tryon.protocol.errors import StorageFull, Unavailable
from tryon.protocol.states import Event, Status
from worker import attempt, tasks
from worker.chain import Chain
from worker.tasks import SessionRunner

MakeConfig = Callable[..., Config]


@pytest.fixture
async def services(config: MakeConfig) -> AsyncIterator[Services]:
    async with open_services(config(lease_seconds=0.6, max_attempts=2)) as services:
        yield services


@pytest.fixture
def feed(services: Services, photos: Path) -> Feed:
    return Feed(services, photos)


async def test_processor_gets_photos_output_is_stored(feed: Feed) -> None:
    """A job has the session's photos and params, and its output becomes a file."""
    session = await feed.submit(garment=True)

    ended, processor = await play(feed, done, session)

    [job] = processor.jobs
    photo, garment = [(each.role, each.type, each.bytes) for each in job.inputs]
    assert photo == ("person", "image/webp", len(processor.contents[0]))
    assert garment == ("garment", "image/png", len(processor.contents[1]))
    assert processor.contents[0] == await feed.services.files.get(session.inputs[0].key)
    assert processor.contents[1].startswith(b"\x89PNG")
    assert job.deadline_at == pytest.approx(session.deadline_at.timestamp(), abs=5)
    assert (job.session_id, job.attempt, job.params) == (session.id, 1, {"fit": "loose"})
    assert ended.status is Status.COMPLETED
    assert await feed.services.files.get(f"outputs/{session.id}-1-result-0.png") == b"a picture"


@pytest.mark.parametrize(
    ("script", "code", "message", "retryable"),
    [
        (raising(ProcessorError("mock_failure")), "mock_failure", None, True),
        (
            raising(ProcessorError("no_person", "Nobody is in it.", retryable=False)),
            "no_person",
            "Nobody is in it.",
            False,
        ),
        (raising(ValueError("secret path /etc")), "processor_error", None, True),
        (raising(asyncio.CancelledError()), "processor_error", None, True),
        (raising(TimeoutError("of the model")), "processor_error", None, True),
    ],
)
async def test_failure_fails_session(feed: Feed, script: Play, code: str, message: str | None, retryable: bool) -> None:
    """Each kind of error becomes the code, message and flag of the session."""
    session, _ = await play(feed, script)

    assert session.status is Status.FAILED
    assert session.error_code == code
    assert session.error_retryable is retryable
    if message is not None:
        assert session.error_message == message
    assert "secret" not in str(session.error_message)


@pytest.mark.parametrize(
    "output", [None, Output(b"", "image/png"), Output(b"x", "../x"), Output(b"x", "PNG"), [], [b"x"]]
)
async def test_invalid_output_fails_session(feed: Feed, output: Any) -> None:
    """A value that is no output fails the session as a processor error."""

    async def wrong(job: Job, report: Report) -> Result:
        return output  # type: ignore[no-any-return]

    session, _ = await play(feed, wrong)
    assert session.error_code == "processor_error"


async def test_trace_of_unknown_error_is_logged(feed: Feed, caplog: pytest.LogCaptureFixture) -> None:
    """An error without a name is logged with its traceback."""
    session, _ = await play(feed, raising(ValueError("deep inside")))
    [record] = [record for record in caplog.records if record.exc_info]
    assert session.id in record.getMessage()
    assert "deep inside" in caplog.text


async def test_requeued_error_burns_attempts(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each requeue burns an attempt; the last one fails the session."""
    monkeypatch.setattr(attempt, "RETRY_SECONDS", 0.0)
    script = raising(ProcessorError("gpu_gone", requeue=True))
    session, _ = await play(feed, script)
    assert (session.status, session.burnt) == (Status.CREATED, 1)
    assert await feed.services.queue.contains(session.id, session.attempt, session.enqueues)

    session, _ = await play(feed, script, session)

    assert (session.status, session.error_code) == (Status.FAILED, "gpu_gone"), "the last code is kept"


async def test_requeue_waits_a_moment(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued again at once, all attempts would be burnt within milliseconds."""
    monkeypatch.setattr(attempt, "RETRY_SECONDS", 60.0)
    session = await feed.submit()
    processor = Scripted(raising(ProcessorError("gpu_gone", requeue=True)))
    running = asyncio.create_task(SessionRunner(feed.services, Chain([processor]), "w1", Trusting()).run(session.id))
    await processor.began.wait()
    await asyncio.sleep(0.05)
    assert (await feed.story(session.id)).session.status is Status.PROCESSING
    running.cancel()  # but a worker that stops does not wait for it
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    story = await feed.story(session.id)
    assert (story.session.status, story.session.burnt) == (Status.CREATED, 0)


async def test_unavailable_storage_costs_no_attempt(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session waits while its photos cannot be read."""
    monkeypatch.setattr(attempt, "RETRY_SECONDS", 0.01)
    session = await feed.submit()
    get, left = feed.services.files.get, 5

    async def away(key: str) -> bytes:
        nonlocal left
        left -= 1
        if left >= 0:
            raise Unavailable
        return await get(key)

    monkeypatch.setattr(feed.services.files, "get", away)
    session, _ = await play(feed, done, session)
    assert (session.status, session.attempt, session.burnt) == (Status.COMPLETED, 1, 0)


async def test_stopping_worker_gives_blocked_claim_up(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that the database does not answer does not keep a worker."""
    monkeypatch.setattr(tasks, "SETTLE_SECONDS", 0.05)
    asked = asyncio.Event()
    ended = asyncio.Event()

    async def withheld(*what: Any, **more: Any) -> Any:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(feed.services.sessions.claims, "begin", withheld)
    session = await feed.submit()
    running = asyncio.create_task(
        SessionRunner(feed.services, Chain([Scripted(done)]), "w1", Trusting()).run(session.id)
    )
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    assert ended.is_set(), "nothing goes on"


def lose_answers(monkeypatch: pytest.MonkeyPatch, services: Services, number: int) -> None:
    """Commit the next claims, this number of calls, and lose the answers."""
    claim, left = services.database.writer.claim, number

    async def unanswered(*what: Any, **more: Any) -> Any:
        nonlocal left
        moved = await claim(*what, **more)
        left -= 1
        if left >= 0:
            raise Unavailable
        return moved

    monkeypatch.setattr(services.database.writer, "claim", unanswered)
    monkeypatch.setattr(tasks, "RETRY_SECONDS", 0.01)


async def test_claim_without_answer_is_carried_on(
    config: MakeConfig, database_url: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that was committed and not answered is the run's own, at no cost."""
    async with open_services(config()) as services:
        feed = Feed(services, photos)
        session = await feed.submit()
        lose_answers(monkeypatch, services, 2)
        session, processor = await play(feed, done, session)
        assert (session.status, session.attempt, session.burnt) == (Status.COMPLETED, 1, 0)
        assert len(processor.jobs) == 1
        events = [event.event for event in (await feed.story(session.id)).events]
        assert events == [Event.CREATED, Event.PROCESSING, Event.COMPLETED]


async def test_lease_without_answer_is_renewed_at_once(
    config: MakeConfig, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease of a claim that was answered late has begun before."""
    async with open_services(config(lease_seconds=300)) as services:
        renewed, renew = asyncio.Event(), services.sessions.claims.renew

        async def noted(claim: Any) -> Any:
            renewed.set()
            return await renew(claim)

        async def until_renewed(job: Job, report: Report) -> Result:
            await renewed.wait()
            return Output(b"x", "image/png")

        lose_answers(monkeypatch, services, 1)
        monkeypatch.setattr(services.sessions.claims, "renew", noted)
        session, _ = await play(Feed(services, photos), until_renewed)
    assert session.status is Status.COMPLETED


async def test_job_that_comes_twice_runs_once_without_answers(
    config: MakeConfig, database_url: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one worker and one session lose their answers; one has the claim."""
    async with open_services(config()) as services:
        feed = Feed(services, photos)
        session = await feed.submit()
        lose_answers(monkeypatch, services, 4)
        release = asyncio.Event()

        async def until_released(job: Job, report: Report) -> Result:
            await release.wait()
            return Output(b"x", "image/png")

        processor = Scripted(until_released)
        runner = SessionRunner(services, Chain([processor]), "w1", Trusting())
        runs = [asyncio.create_task(runner.run(session.id)) for _ in range(2)]
        async with asyncio.timeout(20):
            ended, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
            assert len(ended) == 1, "the run without the claim leaves it alone"
            await processor.began.wait()
            release.set()
            await asyncio.gather(*runs)
        assert len(processor.jobs) == 1
        session = (await feed.story(session.id)).session
        assert (session.status, session.attempt) == (Status.COMPLETED, 1)


async def test_stopping_worker_repeats_no_claim(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is told to stop does not wait for an unavailable database."""
    monkeypatch.setattr(tasks, "RETRY_SECONDS", 60.0)
    refused = asyncio.Event()

    async def unavailable(*what: Any, **more: Any) -> Any:
        refused.set()
        raise Unavailable

    monkeypatch.setattr(feed.services.database.writer, "claim", unavailable)
    session = await feed.submit()
    runner = SessionRunner(feed.services, Chain([Scripted(done)]), "w1", Trusting())
    running = asyncio.create_task(runner.run(session.id))
    await refused.wait()
    runner.claim_no_more()
    await asyncio.wait_for(running, 10)


@pytest.mark.parametrize(("asked_ago", "age"), [(60.0, 10.0), (0.0, 0.0)])
async def test_deadline_counts_from_the_claim(feed: Feed, asked_ago: float, age: float) -> None:
    """An answer that came late costs its own time; a clock that is wrong costs none."""
    claim = await feed.services.sessions.claims.begin((await feed.submit()).id, worker="w1")
    assert claim is not None
    made_at = claim.session.updated_at - timedelta(seconds=10)
    session = replace(claim.session, updated_at=made_at, deadline_at=made_at + timedelta(seconds=300))
    now = asyncio.get_running_loop().time()
    runner = SessionRunner(feed.services, Chain([Scripted(done)]), "w1", Trusting())
    deadline = runner._deadline(replace(claim, session=session), now - asked_ago)
    assert deadline - now == pytest.approx(300 - age, abs=5)


async def test_lost_photo_fails_session(feed: Feed) -> None:
    """A photo that is missing from the storage fails the session."""
    session = await feed.submit()
    await feed.services.files.delete([session.inputs[0].key])
    session, processor = await play(feed, done, session)
    assert session.error_code == "input_lost"
    assert processor.jobs == []


@pytest.mark.parametrize(("refusals", "status"), [(2, Status.COMPLETED), (99, Status.FAILED)])
async def test_full_storage_is_retried_then_fails(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, refusals: int, status: Status
) -> None:
    """An output that cannot be stored for long fails the session."""
    monkeypatch.setattr(tasks, "STORE_DELAYS", (0, 0, 0))
    session = await feed.submit()
    put, left = feed.services.files.put, refusals

    async def full(key: str, data: bytes) -> None:
        nonlocal left
        if left > 0:
            left -= 1
            raise StorageFull
        await put(key, data)

    monkeypatch.setattr(feed.services.files, "put", full)
    session, _ = await play(feed, done, session)
    assert session.status is status
    assert session.error_code == ("storage_full" if status is Status.FAILED else None)


async def test_deadline_ends_run(config: MakeConfig, photos: Path) -> None:
    """A run that reaches the deadline is cancelled and fails as a timeout."""
    async with open_services(config(deadline_seconds=3.0)) as services:
        session, processor = await play(Feed(services, photos), forever)
    assert processor.cancelled
    assert (session.status, session.error_code) == (Status.FAILED, "timeout")


async def test_lease_is_renewed_during_run(config: MakeConfig, photos: Path) -> None:
    """A run that takes longer than its lease keeps its claim."""
    async with open_services(config(lease_seconds=3.0)) as services:

        async def longer_than_the_lease(job: Job, report: Report) -> Result:
            await asyncio.sleep(3.5)
            await services.reconciling.reconciler.maintain()  # finds nothing lapsed
            return Output(b"late")

        session, _ = await play(Feed(services, photos), longer_than_the_lease)
        assert (session.status, session.attempt) == (Status.COMPLETED, 1)


async def test_replaced_worker_changes_nothing(feed: Feed) -> None:
    """A worker whose lease was lost stops its run and records no end."""
    old = Scripted(forever)
    session = await feed.submit()
    running = asyncio.create_task(SessionRunner(feed.services, Chain([old]), "old", Trusting()).run(session.id))
    await old.began.wait()
    claimed = (await feed.story(session.id)).session
    handed = await feed.services.database.reader.get(session.id)
    assert handed is not None
    assert await feed.services.sessions.requeueing.requeue(claimed, actor="test", burnt=True, reason="lease_lost")

    await asyncio.wait_for(running, 10)  # its heartbeat notices

    assert old.cancelled
    ended, _ = await play(feed, done, session)
    assert (ended.status, ended.attempt) == (Status.COMPLETED, 2)
    assert [event.event for event in (await feed.story(session.id)).events][1:] == [
        Event.PROCESSING,
        Event.REQUEUED,
        Event.PROCESSING,
        Event.COMPLETED,
    ]


@pytest.mark.parametrize("moment", ["before the claim", "while it runs"])
async def test_stopping_worker_hands_session_back(feed: Feed, moment: str) -> None:
    """A worker that stops at any moment of a run requeues the session unburnt."""
    processor = Scripted(forever)
    session = await feed.submit()
    running = asyncio.create_task(SessionRunner(feed.services, Chain([processor]), "w1", Trusting()).run(session.id))
    if moment == "while it runs":
        await processor.began.wait()
    else:
        await asyncio.sleep(0)  # the claim is on its way to the database
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)

    story = await feed.story(session.id)
    assert (story.session.status, story.session.burnt) == (Status.CREATED, 0)
    assert story.events[-1].data == {"reason": "drained"}


async def test_stopping_worker_hands_back_what_it_cannot_store(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stops while an output is being stored burns no attempt."""
    monkeypatch.setattr(tasks, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(tasks, "HAND_BACK_SECONDS", 10.0)
    storing = asyncio.Event()

    async def put(key: str, data: bytes) -> None:
        storing.set()
        await asyncio.Event().wait()

    session = await feed.submit()
    monkeypatch.setattr(feed.services.files, "put", put)
    runner = SessionRunner(feed.services, Chain([Scripted(done)]), "w1", Trusting())
    running = asyncio.create_task(runner.run(session.id))
    await asyncio.wait_for(storing.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 20)
    story = await feed.story(session.id)
    assert (story.session.status, story.session.burnt) == (Status.CREATED, 0)
    assert story.events[-1].data == {"reason": "drained"}


async def test_ended_session_is_not_run(feed: Feed) -> None:
    """A job whose session is unknown or has ended does nothing."""
    session, _ = await play(feed, done)
    again, processor = await play(feed, forever, session)
    assert again == session
    assert processor.jobs == []

    for stranger in ("01990000-0000-7000-8000-000000000000", "not an id", ""):
        await SessionRunner(feed.services, Chain([processor]), "w1", Trusting()).run(stranger)
    assert processor.jobs == []


async def test_invalid_progress_harms_nothing(feed: Feed) -> None:
    """Progress is published, and values out of range do no harm."""
    seen = []

    async def chatty(job: Job, report: Report) -> Result:
        async def published() -> Any:
            return (await feed.services.bus.last_progress([job.session_id])).get(job.session_id)

        await report(0.25, "rendering", 3.0)
        seen.append(await until(published))
        await report(float("nan"), None)
        await report("half", object())  # type: ignore[arg-type]
        return Output(b"x")

    session, _ = await play(feed, chatty)
    assert session.status is Status.COMPLETED
    [progress] = seen
    assert (progress.progress, progress.stage, progress.eta_seconds) == (0.25, "rendering", 3.0)
