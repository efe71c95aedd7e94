"""Calls of an object storage: each ends in time, and fails in the port's words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from server.adapters.files.object_errors import bucket_is_missing, refuse

ANSWER_SECONDS: Final = 5.0
"""Maximum time of one request without a body, and of a pause within an answer."""

SLOWEST_BYTES_PER_SECOND: Final = 256 * 1024
"""Speed of an upload below which the storage counts as silent."""

CANCEL_SECONDS: Final = 0.5
"""Maximum time that a cancelled caller waits for the end of its request."""

_T = TypeVar("_T")


def upload_seconds(size: int) -> float:
    """Return the seconds that an upload of this size may take."""
    return ANSWER_SECONDS + size / SLOWEST_BYTES_PER_SECOND


async def answer(request: Awaitable[_T], seconds: float | None = None, *, writes: bool = False) -> _T:
    """Return the answer to a request; ``seconds``: instead of :data:`ANSWER_SECONDS`.

    Raises FileNotFoundError for a missing object, else Unavailable; StorageFull only if
    it ``writes``.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS if seconds is None else seconds):
            return await request
    except FileNotFoundError as error:
        if bucket_is_missing(error):
            refuse(error)
        raise
    except Exception as error:  # obstore's own, OSError, ValueError: the port knows none of them
        refuse(error, writes=writes)


async def finished(request: Awaitable[_T], seconds: float) -> _T:
    """Return the answer to a request that writes; raise as :func:`answer`.

    A cancelled caller waits a moment for its end: what follows, such as a deletion,
    then comes after it.
    """
    task = asyncio.ensure_future(answer(request, seconds, writes=True))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
