"""Sessions on a process pool, for the tests of its parts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from testkit.jobs import job_of
from tryon.processor import Job, ProcessorError
from tryon.processor.conformance import Reports
from worker.isolation.errors import RaisedInChild
from worker.isolation.pool import ProcessPool
from worker.isolation.timing import Timing

LINUX = pytest.mark.skipif("sys.platform != 'linux'", reason="needs /proc")
MEGABYTE = 2**20
ELSEWHERE = "tests.worker.elsewhere:Elsewhere"
Start = Callable[..., Any]
PATIENT = Timing(status_seconds=30.0)
"""A fork server says how a child has ended, however busy the machine."""


def job(do: str = "pid", **params: Any) -> Job:
    return job_of(params={"do": do} | params)


async def run(pool: ProcessPool, do: str = "pid", **params: Any) -> str:
    """Return what the processor returned, or the code that the session failed with."""
    try:
        [output] = await asyncio.wait_for(pool.run(job(do, **params), Reports()), 120)
    except ProcessorError as error:
        return error.code
    except RaisedInChild:
        return "processor_error"
    return output.data.decode()


async def said(pool: ProcessPool, do: str, report: Reports | None = None, **params: Any) -> str:
    """Return what a processor that is elsewhere returned; raise as the pool does."""
    [output] = await asyncio.wait_for(pool.run(job(do, **params), report or Reports()), 30)
    return output.data.decode()


class Waiting:
    """A session that runs for as long as the test wants."""

    def __init__(self, pool: ProcessPool) -> None:
        self._pid = asyncio.get_running_loop().create_future()
        self.outcome = asyncio.create_task(pool.run(job("wait"), Reports(self._reported)))

    def _reported(self, progress: float | None, stage: str | None, eta_seconds: float | None) -> None:
        if stage is not None and stage.startswith("waiting "):
            self._pid.set_result(int(stage.split()[1]))

    async def reached(self) -> None:
        await asyncio.wait_for(asyncio.shield(self._pid), 60)

    async def end(self) -> str:
        os.kill(self._pid.result(), signal.SIGUSR1)
        [output] = await asyncio.wait_for(self.outcome, 60)
        return output.data.decode()
