"""The conformance suite finds the faults that it is there to find."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tryon.processor import Job, Output, Processor, Report
from tryon.processor.conformance import ProcessorConformance, sample_photo


class Honest:
    """A processor that returns the photo."""

    name = "honest"

    async def run(self, job: Job, report: Report) -> Output:
        await report(0.5, "looking", 0.1)
        return Output(job.image, "png")


class Nameless(Honest):
    name = " "


class Mislabelled(Honest):
    async def run(self, job: Job, report: Report) -> Output:
        return Output(job.image, "jpg")


class Boastful(Honest):
    async def run(self, job: Job, report: Report) -> Output:
        await report(1.5, "looking")
        return Output(job.image, "png")


class Vague(Honest):
    reads = "/models"


class OnlyOnce(Honest):
    def __init__(self) -> None:
        self.used = False

    async def run(self, job: Job, report: Report) -> Output:
        data, self.used = b"" if self.used else job.image, True
        return Output(data, "png")


class Wrapper:
    """A processor that must be started, behind a wrapper that only delegates."""

    def __init__(self, calls: list[str]) -> None:
        self._wrapped = Started(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class Started(Honest):
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    async def start(self) -> None:
        self.calls.append("start")

    async def run(self, job: Job, report: Report) -> Output:
        self.calls.append("run")
        return await super().run(job, report)

    async def close(self) -> None:
        self.calls.append("close")


class Stubborn(Honest):
    async def run(self, job: Job, report: Report) -> Output:
        await report(0.0, "looking")
        for _ in range(50):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                time.sleep(0.01)  # noqa: ASYNC251 - a processor that swallows its cancellation
        return Output(job.image, "png")


def suite(make_one: Callable[[], Processor]) -> ProcessorConformance:
    class Suite(ProcessorConformance):
        stop_seconds = 0.1

        def make(self) -> Processor:
            return make_one()

    return Suite()


CHECKS = [name for name in dir(ProcessorConformance) if name.startswith("test_")]


@pytest.mark.parametrize("check", CHECKS)
def test_honest_processor_passes(check: str) -> None:
    """The smallest honest processor passes every check."""
    getattr(suite(Honest), check)()


@pytest.mark.parametrize(
    ("processor", "check"),
    [
        (Nameless, "test_processor_has_name"),
        (Vague, "test_needs_are_well_formed"),
        (Mislabelled, "test_run_returns_image"),
        (Boastful, "test_reports_are_in_range"),
        (OnlyOnce, "test_processor_runs_again"),
        (Stubborn, "test_cancel_ends_run"),
    ],
)
def test_faulty_processor_fails_its_check(processor: Callable[[], Processor], check: str) -> None:
    """Each fault fails the check that is there for it."""
    with pytest.raises((AssertionError, TypeError)):
        getattr(suite(processor), check)()


@pytest.mark.parametrize("processor", [Started, Wrapper])
def test_processor_is_started_and_closed(processor: Callable[[list[str]], Processor]) -> None:
    """Methods that a wrapper delegates are found as well."""
    calls: list[str] = []
    suite(lambda: processor(calls)).test_run_returns_image()
    assert calls == ["start", "run", "close"]


def test_sample_photo_is_readable() -> None:
    """The sample photo is a real PNG of the size that was asked for."""
    with Image.open(BytesIO(sample_photo(70, 90))) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (70, 90), "RGB")
