"""Fall-over: which processor runs the next attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.config.settings import Config
from server.services import Services, open_services
from testkit.jobs import input_of, job_of
from tests.worker.conftest import Feed
from tests.worker.scripted import INFO, Play, Scripted, Trusting, done, raising
from tryon.processor import Info, Job, ProcessorError, Report, Result, Role
from tryon.protocol.states import Event, Status
from worker import attempt
from worker.chain import Chain, accepts
from worker.isolation.errors import Evicted, NotStarted
from worker.tasks import SessionRunner

MakeConfig = Callable[..., Config]
BUSY = ProcessorError("backend_busy", retry_after=60)
DOWN = ProcessorError("backend_unreachable", requeue=True)


@pytest.fixture
async def services(config: MakeConfig) -> AsyncIterator[Services]:
    async with open_services(config(processor="one,two")) as services:
        yield services


@pytest.fixture
def feed(services: Services, photos: Path) -> Feed:
    return Feed(services, photos)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing between two attempts."""
    monkeypatch.setattr(attempt, "RETRY_SECONDS", 0.0)


async def fall_over(feed: Feed, one: Play, two: Play, *, second: Info = INFO, runs: int = 2) -> list[Any]:
    """Run a session so often, and return its events with their data."""
    chain = Chain([Scripted(one, "one"), Scripted(two, "two", second)])
    session = await feed.submit()
    runner = SessionRunner(feed.services, chain, "w1", Trusting())
    async with asyncio.timeout(20):
        for _ in range(runs):
            await runner.run(session.id)
    return (await feed.story(session.id)).events[1:]


@pytest.mark.parametrize("error", [BUSY, DOWN])
async def test_next_processor_runs_after_error_to_retry(feed: Feed, error: ProcessorError) -> None:
    """A busy or unreachable upstream passes the session on; the trail names both."""
    events = await fall_over(feed, raising(error), done)
    assert [event.event for event in events] == [
        Event.PROCESSING,
        Event.REQUEUED,
        Event.PROCESSING,
        Event.COMPLETED,
    ]
    assert [event.data.get("processor") for event in events if event.event is Event.PROCESSING] == ["one", "two"]
    assert events[1].data["reason"] == error.code
    ended = (await feed.story(events[0].session_id)).session
    assert ended.burnt == int(error.requeue), "a busy upstream burns nothing"


async def test_final_error_is_final_in_a_chain(feed: Feed) -> None:
    """An error that need not be retried fails the session, whatever follows."""
    events = await fall_over(feed, raising(ProcessorError("moderated_input")), done, runs=1)
    assert [event.event for event in events] == [Event.PROCESSING, Event.FAILED]


async def test_processor_that_does_not_take_the_inputs_is_passed_over(feed: Feed) -> None:
    """A later processor runs only what it accepts."""
    events = await fall_over(feed, raising(DOWN), done, second=Info(name="two", roles=(Role(name="body"),)))
    assert [event.data.get("processor") for event in events if event.event is Event.PROCESSING] == ["one", "one"]


async def test_begun_work_stays_with_its_processor(feed: Feed) -> None:
    """An upstream that has accepted the work is waited for, not replaced."""
    calls = 0

    async def began(job: Job, report: Report) -> Result:
        nonlocal calls
        calls += 1
        if calls == 1:
            await report.checkpoint({"id": job.key})
            raise ProcessorError("backend_busy", retry_after=0)
        return await done(job, report)

    events = await fall_over(feed, began, done, runs=1)
    assert [event.event for event in events] == [Event.PROCESSING, Event.COMPLETED]
    assert calls == 2


async def test_retried_error_comes_back_to_the_first(feed: Feed) -> None:
    """After the last processor the first one follows, until attempts run out."""
    events = await fall_over(feed, raising(DOWN), raising(DOWN), runs=3)
    processors = [event.data.get("processor") for event in events if event.event is Event.PROCESSING]
    assert processors == ["one", "two", "one"]
    assert events[-1].status is Status.FAILED


async def test_processor_that_cannot_start_hands_back_to_the_first(feed: Feed) -> None:
    """A session is not handed back and forth by a processor that runs nothing."""
    tried = False

    async def again(job: Job, report: Report) -> Result:
        nonlocal tried
        if not tried:
            tried = True
            raise DOWN
        return await done(job, report)

    events = await fall_over(feed, again, raising(NotStarted()), runs=3)
    assert [event.data.get("processor") for event in events if event.event is Event.PROCESSING] == ["one", "two", "one"]
    assert events[-1].event is Event.COMPLETED
    assert (await feed.story(events[0].session_id)).session.burnt == 1


async def test_session_of_an_ended_child_stays_with_its_processor(feed: Feed) -> None:
    """The next attempt resumes the work that this processor has begun upstream."""
    resumed: list[int] = []

    async def began(job: Job, report: Report) -> Result:
        if resumed:
            return await done(job, report)
        resumed.append(job.attempt)
        await report.checkpoint({"id": job.key})
        raise Evicted

    events = await fall_over(feed, raising(DOWN), began, runs=3)
    assert [event.data.get("processor") for event in events if event.event is Event.PROCESSING] == ["one", "two", "two"]
    assert events[-1].event is Event.COMPLETED


def test_accepts_judges_inputs_and_params() -> None:
    """Roles, counts, formats, sizes and params decide whether a job fits."""
    job = job_of(garment=b"a garment", params={"fit": "loose"})
    person = Role(name="person", required=True)
    garment = Role(name="garment", formats=("image/png",), max_bytes=9, max_pixels=12)
    info = Info(name="own", roles=(person, garment))
    assert accepts(info, job)
    assert not accepts(replace(info, roles=(person,)), job)
    assert not accepts(replace(info, roles=(person, replace(garment, formats=("image/webp",)))), job)
    assert not accepts(replace(info, roles=(person, replace(garment, max_bytes=8))), job)
    assert not accepts(replace(info, roles=(person, garment, Role(name="mask", required=True))), job)
    assert not accepts(info, replace(job, inputs=(*job.inputs, input_of(b"x", role="person", index=1))))
    wide = replace(job, inputs=(job.inputs[0], replace(job.inputs[1], width=4, height=4)))
    assert not accepts(info, wide)
    schema = {"type": "object", "properties": {"fit": {"enum": ["tight"]}}}
    assert not accepts(replace(info, params_schema=schema), job)
