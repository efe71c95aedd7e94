"""The conformance suite finds the faults that it is there to find."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tryon.processor import (
    Checkpoint,
    Info,
    Job,
    Output,
    OutputRole,
    Processor,
    ProcessorError,
    Reference,
    Report,
    Result,
)
from tryon.processor.conformance import ProcessorConformance, sample_photo


class Honest:
    """A processor that returns the photo."""

    info = Info(name="honest", outputs=(OutputRole(types=("image/png",)),))

    async def run(self, job: Job, report: Report) -> Result:
        await report(0.5, "looking", 0.1)
        return Output(job.inputs[0].read(), "image/png")


class Nameless(Honest):
    info = Info(name=" ")


class Costly(Honest):
    info = Info(name="costly", params_schema={"properties": {"x": {"pattern": "^(a+)+$"}}})


class Mislabelled(Honest):
    info = Info(name="mislabelled")

    async def run(self, job: Job, report: Report) -> Result:
        return Output(job.inputs[0].read(), "image/jpeg")


class Generous(Honest):
    async def run(self, job: Job, report: Report) -> Result:
        return [Output(job.inputs[0].read(), "image/png")] * 2


class Choosy(Honest):
    async def run(self, job: Job, report: Report) -> Result:
        [photo] = job.inputs
        return Output(photo.read(), "image/png")


class Surprising(Honest):
    async def run(self, job: Job, report: Report) -> Result:
        await report.preview(job.inputs[0].read(), "image/png")
        return Output(job.inputs[0].read(), "image/png")


class Crowded(Honest):
    info = Info(name="crowded", outputs=Honest.info.outputs, concurrency=2)

    def __init__(self) -> None:
        self.running = False

    async def run(self, job: Job, report: Report) -> Result:
        assert not self.running
        self.running = True
        await asyncio.sleep(0)
        self.running = False
        return Output(job.inputs[0].read(), "image/png")


class Upstream(Honest):
    """A processor with work elsewhere, which ends on request."""

    def __init__(self) -> None:
        self.forgotten = False

    async def run(self, job: Job, report: Report) -> Result:
        await report.checkpoint({"id": job.key})
        await asyncio.sleep(0.05)
        return Output(job.inputs[0].read(), "image/png")

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report) -> Result:
        assert checkpoint == {"id": "conformance-1-1"}
        return Output(job.inputs[0].read(), "image/png")

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        assert job.key == checkpoint["id"]

    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        self.forgotten = True


class Forgetful(Upstream):
    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report) -> Result:
        raise KeyError(job.key)


class ForgetsOnce(Upstream):
    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        assert not self.forgotten
        self.forgotten = True


class Boastful(Honest):
    async def run(self, job: Job, report: Report) -> Result:
        await report(1.5, "looking")
        return Output(job.inputs[0].read(), "image/png")


class Vague(Honest):
    reads = "/models"


class OnlyOnce(Honest):
    def __init__(self) -> None:
        self.used = False

    async def run(self, job: Job, report: Report) -> Result:
        data, self.used = b"" if self.used else job.inputs[0].read(), True
        return Output(data, "image/png")


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

    async def run(self, job: Job, report: Report) -> Result:
        self.calls.append("run")
        return await super().run(job, report)

    async def close(self) -> None:
        self.calls.append("close")


class Stubborn(Honest):
    async def run(self, job: Job, report: Report) -> Result:
        await report(0.0, "looking")
        for _ in range(50):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                time.sleep(0.01)  # noqa: ASYNC251 - a processor that swallows its cancellation
        return Output(job.inputs[0].read(), "image/png")


class BusyAtFirst(Honest):
    """A processor whose upstream still ends the run before."""

    def __init__(self) -> None:
        self._busy = True

    async def run(self, job: Job, report: Report) -> Result:
        if self._busy:
            self._busy = False
            raise ProcessorError("backend_busy", retry_after=0.01)
        return await super().run(job, report)


def suite(make_one: Callable[[], Processor]) -> ProcessorConformance:
    class Suite(ProcessorConformance):
        stop_seconds = 0.1

        def make(self) -> Processor:
            return make_one()

    return Suite()


CHECKS = [name for name in dir(ProcessorConformance) if name.startswith("test_")]


@pytest.mark.parametrize("processor", [Honest, Upstream])
@pytest.mark.parametrize("check", CHECKS)
def test_honest_processor_passes(check: str, processor: Callable[[], Processor]) -> None:
    """An honest processor passes every check, with work elsewhere or not."""
    getattr(suite(processor), check)()


@pytest.mark.parametrize("check", ["test_run_returns_outputs", "test_broken_image_fails_with_exception"])
def test_busy_upstream_is_waited_for(check: str) -> None:
    """As a worker waits: it is no fault of the processor's."""
    getattr(suite(BusyAtFirst), check)()


@pytest.mark.parametrize(
    ("processor", "check"),
    [
        (Nameless, "test_info_is_well_formed"),
        (Costly, "test_info_is_well_formed"),
        (Vague, "test_needs_are_well_formed"),
        (Mislabelled, "test_run_returns_outputs"),
        (Generous, "test_run_returns_outputs"),
        (Choosy, "test_run_accepts_every_input"),
        (Surprising, "test_previews_are_pictures"),
        (Crowded, "test_concurrent_runs_end_well"),
        (Forgetful, "test_resume_goes_on_from_checkpoint"),
        (ForgetsOnce, "test_clean_up_may_be_repeated"),
        (Boastful, "test_reports_are_in_range"),
        (OnlyOnce, "test_processor_runs_again"),
        (Stubborn, "test_cancel_ends_run"),
    ],
)
def test_faulty_processor_fails_its_check(processor: Callable[[], Processor], check: str) -> None:
    """Each fault fails the check that is there for it."""
    with pytest.raises((AssertionError, TypeError, ValueError, KeyError)):
        getattr(suite(processor), check)()


@pytest.mark.parametrize("processor", [Started, Wrapper])
def test_processor_is_started_and_closed(processor: Callable[[list[str]], Processor]) -> None:
    """Methods that a wrapper delegates are found as well."""
    calls: list[str] = []
    suite(lambda: processor(calls)).test_run_returns_outputs()
    assert calls == ["start", "run", "close"]


def test_sample_photo_is_readable() -> None:
    """The sample photo is a real PNG of the size that was asked for."""
    with Image.open(BytesIO(sample_photo(70, 90))) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (70, 90), "RGB")
