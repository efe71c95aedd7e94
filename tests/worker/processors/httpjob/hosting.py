"""A fake host with a processor for it, and a report that keeps what it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from testkit.model_host import ModelHost
from tryon.processor import AttemptLost, Input, Job, Output, ProcessorError
from worker.processors.httpjob import HttpJob


@dataclass
class Told:
    """A ``Report`` that keeps what it is told."""

    reports: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)
    paid: list[dict[str, float]] = field(default_factory=list)
    """Usage that was reported before each checkpoint."""
    previews: list[tuple[bytes, str]] = field(default_factory=list)
    lost: bool = False

    async def __call__(
        self,
        progress: float | None = None,
        stage: str | None = None,
        eta_seconds: float | None = None,
        *,
        step: int | None = None,
        steps: int | None = None,
        upstream_position: int | None = None,
    ) -> None:
        self.reports.append({"progress": progress, "stage": stage, "upstream_position": upstream_position})

    async def checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        if self.lost:
            raise AttemptLost
        self.checkpoints.append(dict(checkpoint))
        self.paid.append(dict(self.used))

    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None:
        given = {"credits": credits, "cost_usd": cost_usd, "gpu_seconds": gpu_seconds}
        self.used = {name: value for name, value in given.items() if value is not None}

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None:
        self.previews.append((data, type))

    async def log(self, text: str) -> None:
        raise AssertionError("it logs by itself")


@contextlib.asynccontextmanager
async def host(**options: Any) -> AsyncIterator[tuple[ModelHost, HttpJob]]:
    """Start a host, and a processor with these options on top of the usual ones."""
    async with ModelHost() as server:
        processor = HttpJob(**server.options(**options))
        try:
            yield server, processor
        finally:
            await processor.close()


async def run(processor: HttpJob, job: Job, told: Told | None = None) -> Sequence[Output]:
    async with asyncio.timeout(20):
        result = await processor.run(job, told or Told())
    return [result] if isinstance(result, Output) else result


async def resumed(
    processor: HttpJob, job: Job, checkpoint: Mapping[str, Any], told: Told | None = None
) -> list[Output]:
    async with asyncio.timeout(20):
        result = await processor.resume(job, checkpoint, told or Told())
    return [result] if isinstance(result, Output) else list(result)


async def failed(processor: HttpJob, job: Job, told: Told | None = None) -> ProcessorError:
    with pytest.raises(ProcessorError) as error:
        await run(processor, job, told)
    return error.value


def data_url(given: Input) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(given.read()).decode()}"
