"""A processor in a child process with its sandbox, for the tests of a model.

The conformance suite runs a processor in the process of the tests. With this it runs as
in a worker, and fails if the processor needs more than its attributes say::

    class TestConfinedMirror(ProcessorConformance):
        stop_seconds = 5.0

        def make(self) -> Confined:
            return Confined("package.module:Mirror")
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from server.config.settings import Config
from server.system.memory_files import memory_file, path_of
from tryon.processor import Checkpoint, Info, Job, Output, Reference, Report
from worker.isolation.pool import ProcessPool


class Confined:
    """The processor that a path names, run by a pool of its own."""

    def __init__(self, path: str, **options: Any) -> None:
        self._path = path
        self._options = options
        self._pool: ProcessPool | None = None
        self._info: Info | None = None

    def __repr__(self) -> str:
        return f"<Confined {self._path} {self._pool!r}>"

    @property
    def info(self) -> Info:
        """Of the processor in the child."""
        assert self._info is not None, "start() comes first"
        return self._info

    async def start(self) -> None:
        """Start a child. Raises ConfigError: the processor cannot be made."""
        self._pool = ProcessPool(Config(processor=self._path), options=self._options)
        self._pool.start()
        await self._pool.built()
        self._info = await self._pool.described()

    async def run(self, job: Job, report: Report) -> tuple[Output, ...]:
        """Run the job in the child; an exception of its own is a RaisedInChild."""
        with _in_memory(job) as copied:
            return await self._started.run(copied, report)

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report) -> tuple[Output, ...]:
        """Resume in the child, or run the job anew if the processor cannot."""
        with _in_memory(job) as copied:
            return await self._started.resume(copied, checkpoint, report)

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Cancel in the child."""
        await self._started.cancel(job, checkpoint)

    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Forget in the child."""
        await self._started.forget(job, checkpoint)

    async def close(self) -> None:
        """End the child."""
        if self._pool is not None:
            await self._pool.close()

    @property
    def _started(self) -> ProcessPool:
        assert self._pool is not None, "start() comes first"
        return self._pool


@contextlib.contextmanager
def _in_memory(job: Job) -> Iterator[Job]:
    """Return the job with its inputs in memory, which a child can open."""
    files: list[int] = []
    try:
        inputs = []
        for each in job.inputs:
            files.append(memory_file(each.read()))
            inputs.append(replace(each, path=path_of(files[-1])))
        yield replace(job, inputs=tuple(inputs))
    finally:
        for file in files:
            os.close(file)
