"""A run of a child: what it says, and in which order that is passed on."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from server.system.memory_files import LARGE_BYTES, memory_file
from testkit.jobs import job_of
from tryon.processor import Checkpoint, ProcessorError
from tryon.processor.conformance import Reports
from worker.isolation import messages, session_run
from worker.isolation.session_run import SessionRun, Work


class Noting(Reports):
    """A report that notes the order of usage and checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None:
        self.said.append("usage")

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        self.said.append("checkpoint")


async def test_output_waits_for_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is over, and what it has cost is kept."""
    monkeypatch.setattr(session_run, "RETRY_SECONDS", 0.01)
    picture, dup, tries = bytes(LARGE_BYTES), os.dup, 0

    def scarce(file: int) -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return dup(file)

    monkeypatch.setattr(os, "dup", scarce)
    reports = Noting()
    run = SessionRun(1, Work(job_of()))
    run.take(messages.Usage(number=1, credits=2.5))
    run.settle(
        messages.Done(number=1, left_over=False, outputs=[messages.Made(type="image/png", role="result")]),
        [memory_file(picture)],
    )
    [output] = await run.outcome(reports, lambda _: None)
    run.close()
    assert (output.data, reports.said, tries) == (picture, ["usage"], 3)


async def test_usage_is_passed_on_before_the_checkpoint() -> None:
    """The checkpoint keeps it, for the case that the worker is lost."""
    reports = Noting()
    run = SessionRun(1, Work(job_of()))
    run.take(messages.Usage(number=1, credits=2.5))
    run.take(messages.Checkpoint(1, '{"id": 7}'))

    def committed(message: messages.Committed) -> None:
        failed: dict[str, Any] = {"code": "internal", "message": None, "retryable": None, "requeue": False}
        run.settle(messages.Failed(number=1, left_over=False, **failed))

    with pytest.raises(ProcessorError):
        await run.outcome(reports, committed)
    run.close()
    assert reports.said == ["usage", "checkpoint"]
