"""A processor in a child process with its sandbox, for the tests of a model.

The conformance suite runs a processor in the process of the tests. With this it runs as
in a worker, and fails if the processor needs more than its attributes say::

    class TestConfinedMirror(ProcessorConformance):
        stop_seconds = 5.0

        def make(self) -> Confined:
            return Confined("package.module:Mirror")
"""

from __future__ import annotations

from server.config.settings import Config
from tryon.processor import Job, Output, Report
from worker.isolation.pool import ProcessPool


class Confined:
    """The processor that a path names, run by a pool of its own."""

    def __init__(self, path: str, **options: str | int | float | bool | None) -> None:
        self.name = path
        self._options = options
        self._pool: ProcessPool | None = None

    def __repr__(self) -> str:
        return f"<Confined {self.name} {self._pool!r}>"

    async def start(self) -> None:
        """Start a child. Raises ConfigError: the processor cannot be made."""
        self._pool = ProcessPool(Config(processor=self.name), options=self._options)
        self._pool.start()
        await self._pool.built()

    async def run(self, job: Job, report: Report) -> Output:
        """Run the job in the child; an exception of its own is a RaisedInChild."""
        assert self._pool is not None, "start() comes first"
        return await self._pool.run(job, report)

    async def close(self) -> None:
        """End the child."""
        if self._pool is not None:
            await self._pool.close()
