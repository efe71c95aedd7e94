"""A run of a child: what it says, and in which order that is passed on."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.jobs import job_of
from tryon.processor import Checkpoint, ProcessorError
from tryon.processor.conformance import Reports
from worker.isolation import messages
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
