"""The processors of a worker, in the order in which they fall over.

``TRYON_PROCESSOR=cog,httpjob``: uploads are judged by the first one. A session's row
names the one that runs its next attempt; after an error that is to be retried that may
be another one, if it takes the session's inputs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from tryon.processor import Checkpoint, Info, Job, ProcessorError, Reference, Report, Result
from tryon.processor.params import BadParams, BadSchema, ParamsSchema

DESCRIBED_SECONDS: Final = 1.0
"""Time for a processor to be ready; one that is not is passed over."""


Starting: TypeAlias = Callable[[asyncio.Future[Any]], Awaitable[float]]
"""Waits while a processor starts, which is none of the job's time.

Returns the job's deadline from then on, in Unix seconds.
"""


class Runs(Protocol):
    """A processor as a worker uses it: :class:`~worker.isolation.pool.ProcessPool`.

    It takes several jobs at once, and ends soon after a cancel.
    """

    name: str

    @property
    def resumes(self) -> bool:
        """Whether it goes on with work that an earlier attempt has begun.

        Known once it is described.
        """

    @property
    def forgets(self) -> bool:
        """Whether it can delete what its upstream keeps; known once it is described."""

    async def described(self) -> Info: ...

    async def run(self, job: Job, report: Report, starting: Starting) -> Result: ...

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report, starting: Starting) -> Result: ...

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None: ...

    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None: ...


class Chain:
    """Stateless; the first processor judges uploads."""

    def __init__(self, processors: Sequence[Runs]) -> None:
        self._processors = tuple(processors)

    def __repr__(self) -> str:
        return f"<Chain {','.join(each.name for each in self._processors)}>"

    @property
    def first(self) -> Runs:
        return self._processors[0]

    @property
    def names(self) -> list[str]:
        return [each.name for each in self._processors]

    def of(self, name: str) -> Runs | None:
        """Return the processor of this name, None without one."""
        return next((each for each in self._processors if each.name == name), None)

    async def after(self, processor: Runs, job: Job, error: ProcessorError) -> Runs | None:
        """Return the processor that may run the next attempt after an error.

        None: the same one. A busy upstream passes the job on to the processors behind
        it; the last one waits. After any other error the first one follows the last.
        """
        place = self._processors.index(processor)
        others = self._processors[place + 1 :]
        if error.retry_after is None:
            others += self._processors[:place]
        for each in others:
            if await _takes(each, job):
                return each
        return None


async def _takes(processor: Runs, job: Job) -> bool:
    """Return whether a processor is ready, and may be given the job."""
    describing = asyncio.ensure_future(processor.described())
    await asyncio.wait({describing}, timeout=DESCRIBED_SECONDS)
    if not describing.done():
        describing.cancel()
        return False
    return describing.exception() is None and accepts(describing.result(), job)


def accepts(info: Info, job: Job) -> bool:
    """Return whether a job that another processor was to run fits this one."""
    roles = {role.name: role for role in info.roles}
    for each in job.inputs:
        role = roles.get(each.role)
        if role is None or each.index >= role.count or (role.formats and each.type not in role.formats):
            return False
        if role.max_bytes is not None and each.bytes > role.max_bytes:
            return False
        if role.max_pixels is not None and each.width * each.height > role.max_pixels:
            return False
    if any(role.required and job.input(role.name) is None for role in info.roles):
        return False
    try:
        ParamsSchema(info.params_schema).check(dict(job.params))
    except (BadParams, BadSchema):
        return False
    return True
