"""The one map from the operating system's errors to the product's, for stored files."""

from __future__ import annotations

import errno
from typing import Final

from tryon.protocol.errors import StorageFull, Unavailable

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def storage_error(error: OSError) -> StorageFull | Unavailable:
    """Return what a failed read or write means: no room, or no storage."""
    return StorageFull() if error.errno in _FULL else Unavailable()
