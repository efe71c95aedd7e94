"""Rows for files that are about to be stored: their keys, sizes and hashes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from server.domain.stored_files import Direction, NewFile, StoredFile, indices

HASHED_HERE_BYTES: Final = 256 * 1024
"""Largest file that is hashed without a thread: less than 1 ms of the event loop."""


async def describe(
    files: Sequence[NewFile], direction: Direction, key_of: Callable[[NewFile, int], str]
) -> tuple[StoredFile, ...]:
    """Return the rows of new files, in their order.

    ``key_of``: makes a file's key from it and its place among those of its role.
    """
    places = indices(file.role for file in files)
    return tuple(
        [
            StoredFile(
                direction=direction,
                position=position,
                role=file.role,
                index=index,
                key=key_of(file, index),
                type=file.type,
                bytes=len(file.data),
                sha256=await _sha256(file.data),
                width=file.width,
                height=file.height,
            )
            for position, (file, index) in enumerate(zip(files, places, strict=True))
        ]
    )


async def _sha256(data: bytes) -> str:
    hashed = hashlib.sha256(data) if len(data) <= HASHED_HERE_BYTES else await asyncio.to_thread(hashlib.sha256, data)
    return hashed.hexdigest()
