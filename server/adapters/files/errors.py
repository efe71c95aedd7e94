"""The one map from the operating system's errors to the product's, for stored files."""

from __future__ import annotations

import errno
from typing import Final

from tryon.protocol.errors import StorageFull, Unavailable

RETRY_AFTER_SECONDS: Final = 2
"""Pause that a client is asked to make while the storage is unavailable."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def storage_error(error: OSError) -> StorageFull | Unavailable:
    """Return what a failed read or write means: no room, or no storage."""
    return StorageFull() if error.errno in _FULL else unavailable()


def unavailable() -> Unavailable:
    """Return the refusal of a storage that fails or answers nothing."""
    return Unavailable(detail="The storage cannot be used right now.", retry_after=RETRY_AFTER_SECONDS)
