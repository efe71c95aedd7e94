"""One attempt: the wait for a busy upstream, and the verification of outputs."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from server.config.settings import Config
from server.domain.outputs import VerifiedOutput
from server.services import Services, open_services
from server.system.memory_files import memory_file
from tests.worker.conftest import Feed, until
from tests.worker.scripted import Play, Scripted, Trusting, done, forever, play, raising
from tryon.processor import Info, Job, Output, ProcessorError, Report, Result
from tryon.protocol.errors import Unavailable, Unprocessable
from tryon.protocol.states import Status
from worker import attempt, tasks
from worker.chain import Chain, Starting
from worker.isolation.errors import NotStarted
from worker.tasks import SessionRunner

MakeConfig = Callable[..., Config]


@pytest.fixture
async def services(config: MakeConfig) -> AsyncIterator[Services]:
    async with open_services(config(lease_seconds=0.6, max_attempts=2)) as services:
        yield services


@pytest.fixture
def feed(services: Services, photos: Path) -> Feed:
    return Feed(services, photos)


def busy_for(times: int, seconds: float) -> tuple[Play, list[int]]:
    """Return a script that is refused by a busy upstream so often, and its attempts."""
    attempts: list[int] = []

    async def script(job: Job, report: Report) -> Result:
        attempts.append(job.attempt)
        if len(attempts) <= times:
            raise ProcessorError("backend_busy", "All models are busy.", retry_after=seconds)
        return Output(b"x")

    return script, attempts


async def test_busy_upstream_is_waited_for(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session waits for a busy upstream under its lease, and burns nothing."""
    monkeypatch.setattr(attempt, "MIN_PAUSE_SECONDS", 0.0)
    script, attempts = busy_for(5, 0.01)
    session, _ = await play(feed, script)
    assert attempts == [1] * 6
    assert (session.status, session.attempt, session.burnt) == (Status.COMPLETED, 1, 0)


async def test_person_learns_that_upstream_is_busy(feed: Feed) -> None:
    """A session that waits for a busy upstream says so, and how long."""
    script, _ = busy_for(1, 60)
    session = await feed.submit()
    running = asyncio.create_task(
        SessionRunner(feed.services, Chain([Scripted(script)]), "w1", Trusting()).run(session.id)
    )

    async def said() -> Any:
        return (await feed.services.bus.last_progress([session.id])).get(session.id)

    progress = await until(said)
    assert (progress.progress, progress.stage, progress.eta_seconds) == (None, "waiting for the model", 60.0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    story = await feed.story(session.id)
    assert (story.session.status, story.session.burnt) == (Status.CREATED, 0)


async def test_busy_code_is_kept_at_deadline(config: MakeConfig, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that is busy until the deadline fails the session with its code."""
    monkeypatch.setattr(attempt, "EARLY_SECONDS", 0.1)
    async with open_services(config(deadline_seconds=3.0)) as services:
        script, attempts = busy_for(99, 0.2)
        session, _ = await play(Feed(services, photos), script)
    assert len(attempts) > 1
    assert (session.status, session.error_code) == (Status.FAILED, "backend_busy")
    assert session.error_message == "All models are busy."
    assert session.burnt == 0


async def test_busy_code_is_recorded_before_the_reconciler_says_timeout(
    config: MakeConfig, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose upstream is busy, then silent, ends before its deadline."""
    monkeypatch.setattr(attempt, "EARLY_SECONDS", 4.0)
    refused = False

    async def script(job: Job, report: Report) -> Result:
        nonlocal refused
        if refused:
            return await forever(job, report)
        refused = True
        raise ProcessorError("backend_busy", retry_after=0.0)

    async with open_services(config(deadline_seconds=6.0)) as services:
        session, _ = await play(Feed(services, photos), script)
    assert (session.status, session.error_code) == (Status.FAILED, "backend_busy")
    assert session.updated_at < session.deadline_at


async def test_usage_is_recorded_before_the_reconciler_says_timeout(
    config: MakeConfig, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that has used something ends before its deadline, and says what."""
    monkeypatch.setattr(attempt, "EARLY_SECONDS", 4.0)

    async def costly(job: Job, report: Report) -> Result:
        await report.usage(credits=2)
        return await forever(job, report)

    async with open_services(config(deadline_seconds=6.0)) as services:
        feed = Feed(services, photos)
        session, _ = await play(feed, costly)
        last = (await feed.story(session.id)).events[-1]
    assert (session.status, session.error_code, last.data["usage"]) == (Status.FAILED, "timeout", {"credits": 2})
    assert session.updated_at < session.deadline_at


async def test_wait_beyond_deadline_fails_at_once(feed: Feed) -> None:
    """An upstream that asks for more time than is left is not waited for."""
    script, attempts = busy_for(1, 86400)
    session, _ = await play(feed, script)
    assert (session.status, session.error_code, attempts) == (Status.FAILED, "backend_busy", [1])


async def test_job_names_attempts_left(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job says how many attempts may follow it."""
    monkeypatch.setattr(attempt, "RETRY_SECONDS", 0.0)
    script = raising(ProcessorError("gpu_gone", requeue=True))
    session, first = await play(feed, script)
    _, second = await play(feed, script, session)
    assert [each.jobs[0].attempts_left for each in (first, second)] == [1, 0]


@pytest.mark.parametrize(("refusal", "code"), [(Unprocessable("unreadable_image"), "processor_error")])
async def test_output_that_cannot_be_shown_fails_session(feed: Feed, refusal: Exception, code: str) -> None:
    """An output that is not what it says fails the session, and nothing is stored."""

    class Refusing(Trusting):
        async def verify(self, *what: Any, **more: Any) -> VerifiedOutput:
            raise refusal

    session = await feed.submit()
    await SessionRunner(feed.services, Chain([Scripted(done)]), "w1", Refusing()).run(session.id)
    ended = (await feed.story(session.id)).session
    assert (ended.status, ended.error_code) == (Status.FAILED, code)
    assert not [each for each in (await feed.services.files.list_page()).entries if "outputs" in each.key]


async def test_output_counts_when_no_other_run_can_start(feed: Feed) -> None:
    """What a processor has made is stored, also if it can be started no more."""

    class Dying(Scripted):
        async def described(self) -> Info:
            if self.jobs:
                raise NotStarted
            return self.info

    session, _ = await play(feed, done, processor=Dying(done))
    assert session.status is Status.COMPLETED


async def test_output_waits_for_image_process(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no image process is free the output waits, and the run is not repeated."""
    monkeypatch.setattr(attempt, "RETRY_SECONDS", 0.01)
    left = 3

    class Crowded(Trusting):
        async def verify(self, *what: Any, **more: Any) -> VerifiedOutput:
            nonlocal left
            left -= 1
            if left >= 0:
                raise Unavailable
            return await super().verify(*what, **more)

    session, processor = await feed.submit(), Scripted(done)
    await SessionRunner(feed.services, Chain([processor]), "w1", Crowded()).run(session.id)
    assert (await feed.story(session.id)).session.status is Status.COMPLETED
    assert len(processor.jobs) == 1


async def test_lack_of_descriptors_costs_no_attempt(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session waits while its photos cannot be handed over."""
    monkeypatch.setattr(attempt, "RETRY_SECONDS", 0.01)
    left = 2

    def scarce(content: bytes) -> int:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return memory_file(content)

    monkeypatch.setattr("worker.attempt.memory_file", scarce)
    session, processor = await play(feed, done)
    assert (session.status, session.attempt, len(processor.jobs)) == (Status.COMPLETED, 1, 1)


class Cold(Scripted):
    """A processor that becomes ready when the test says so."""

    def __init__(self, script: Play) -> None:
        super().__init__(script)
        self.ready = asyncio.Event()
        self.asked = asyncio.Event()
        """Set once a session waits for it."""

    async def described(self) -> Info:
        self.asked.set()
        await self.ready.wait()
        return self.info


async def test_cold_start_is_none_of_the_deadline(config: MakeConfig, photos: Path) -> None:
    """A session that waits for its processor longer than its deadline still runs."""
    async with open_services(config(deadline_seconds=3.0)) as services:
        feed, processor = Feed(services, photos), Cold(done)
        session = await feed.submit()
        running = asyncio.create_task(SessionRunner(services, Chain([processor]), "w1", Trusting()).run(session.id))

        async def extended() -> bool:
            held = (await feed.story(session.id)).session.deadline_at
            return (held - session.deadline_at).total_seconds() > 0.5

        await until(extended)
        assert processor.jobs == []
        processor.ready.set()
        await asyncio.wait_for(running, 20)
        assert (await feed.story(session.id)).session.status is Status.COMPLETED


async def test_end_during_cold_start_is_recorded_again(
    config: MakeConfig, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its first deadline a session's end is repeated up to the later one."""

    class Extended(attempt.Attempt):
        """An attempt whose first deadline has passed, and was put off by the start."""

        def __init__(self, *about: Any, deadline: float, **more: Any) -> None:
            super().__init__(*about, deadline=deadline + 600, **more)

    monkeypatch.setattr(tasks, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(tasks, "Attempt", Extended)
    monkeypatch.setattr(SessionRunner, "_deadline", lambda *about: asyncio.get_running_loop().time())
    async with open_services(config()) as services:
        feed, processor = Feed(services, photos), Cold(done)
        session = await feed.submit()
        requeue, left = services.sessions.claims.requeue, 1

        async def unavailable_once(*what: Any, **more: Any) -> bool:
            nonlocal left
            left -= 1
            if left >= 0:
                raise Unavailable
            return await requeue(*what, **more)

        monkeypatch.setattr(services.sessions.claims, "requeue", unavailable_once)
        running = asyncio.create_task(SessionRunner(services, Chain([processor]), "w1", Trusting()).run(session.id))
        await asyncio.wait_for(processor.asked.wait(), 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 20)
        assert (await feed.story(session.id)).session.status is Status.CREATED


class Restarting(Scripted):
    """A processor that must start anew for its run, as after a crash."""

    def __init__(self, script: Play) -> None:
        super().__init__(script)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.deadlines: list[float] = []

    async def run(self, job: Job, report: Report, starting: Starting) -> Result:
        self.deadlines = [job.deadline_at, await starting(self.ready)]
        return await super().run(job, report, starting)


async def test_later_start_is_none_of_the_deadline(config: MakeConfig, photos: Path) -> None:
    """A process that is started again after a crash costs its session no time."""
    async with open_services(config(deadline_seconds=3.0)) as services:
        feed, processor = Feed(services, photos), Restarting(done)
        session = await feed.submit()
        running = asyncio.create_task(SessionRunner(services, Chain([processor]), "w1", Trusting()).run(session.id))

        async def extended() -> bool:
            held = (await feed.story(session.id)).session.deadline_at
            return (held - session.deadline_at).total_seconds() > 0.5

        await until(extended)
        assert processor.jobs == []
        processor.ready.set_result(None)
        await asyncio.wait_for(running, 20)
        assert (await feed.story(session.id)).session.status is Status.COMPLETED
        before, after = processor.deadlines
        assert after > before + 0.5


async def test_cold_start_without_end_meets_the_deadline(
    config: MakeConfig, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that never becomes ready fails its session in the end."""
    monkeypatch.setattr(attempt, "COLD_SECONDS", 0.3)
    async with open_services(config(deadline_seconds=3.0)) as services:
        session, processor = await play(Feed(services, photos), done, processor=Cold(done))
    assert (session.status, session.error_code, processor.jobs) == (Status.FAILED, "backend_cold", [])


async def test_cold_start_moves_no_deadline_that_the_database_holds(
    config: MakeConfig, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that expires before its new deadline ends by the one that it has."""

    async def refused(*what: Any) -> bool:
        return False

    async with open_services(config(deadline_seconds=3.0)) as services:
        monkeypatch.setattr(services.sessions.claims, "hold_deadline", refused)
        session, processor = await play(Feed(services, photos), done, processor=Cold(done))
    assert (session.status, session.error_code, processor.jobs) == (Status.FAILED, "backend_cold", [])
