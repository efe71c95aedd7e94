"""Room on a disk: files that are allocated, and space that is kept for deleting.

SQLite needs room to delete: a commit appends to its write-ahead log. On a disk that is
full to the last byte no row could be erased and no session could end. So a file of
:func:`reserve_bytes` lies beside the database (:class:`Reserve`). It is released when
less than an eighth of that is left, and allocated again when there is room for it.

Photos, results and uploads under way leave more free than a released reserve gives
(:func:`require_room`), so they cannot take it. New sessions are refused until the
reserve is back; what is left are the ends of sessions and their erasure, and an erased
photo is larger than the log of its erasure.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

LARGEST_RESERVE_BYTES: Final = 8 * 2**20
"""Size of a reserve on a disk of 128 MiB or more: twice SQLite's write-ahead log at the
size at which it is written back, or the log of erasing 500 sessions one by one.
"""
DISK_SHARE: Final = 16
"""A reserve is at most a 16th of its disk."""


def reserve_bytes(disk_bytes: int) -> int:
    """Return the size of a reserve on a disk of this size."""
    return min(LARGEST_RESERVE_BYTES, disk_bytes // DISK_SHARE)


def allocate(file: int, size: int) -> None:
    """Give a file at least this size, with blocks of its own for every byte of it.

    A sparse file that is mapped into memory kills its writer (SIGBUS) when the disk has
    no block left. Raises OSError (ENOSPC).
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    end = os.fstat(file).st_size  # macOS
    while end < size:
        end += os.pwrite(file, bytes(min(size - end, 2**16)), end)


def require_room(folder: Path, size: int) -> None:
    """Raise OSError (ENOSPC) unless ``size`` bytes fit and leave room for deleting."""
    free, disk = _space(folder)
    if free - size < reserve_bytes(disk) * 5 // 4:  # a released reserve: at most 9/8 are free
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Reserve:
    """A file that keeps room on its disk, shared by all processes of an installation.

    State: the file itself. Any process may release it or allocate it again; a lock on
    the file makes one process allocate while others go on without it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<Reserve {self.path}>"

    def adjust(self) -> bool:
        """Release the file if the disk is nearly full; allocate it if there is room.

        Return whether it is there. Takes 5 us while nothing changes. A disk that cannot
        be asked counts as one with room: the write that follows will find out.
        """
        try:
            free, disk = _space(self.path.parent)
            size = reserve_bytes(disk)
            held = self._held()
            if held and free < size // 8:
                self.path.unlink(missing_ok=True)
                return False
            if not held and free >= size * 5 // 4:
                return self._allocate(size)
        except OSError:
            return True
        return held

    def _held(self) -> bool:
        try:
            return self.path.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _allocate(self, size: int) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            allocate(file, size)
        except BlockingIOError:  # another process does it
            return False
        except OSError:  # another program was faster
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
            return False
        finally:
            os.close(file)
        return True


def _space(folder: Path) -> tuple[int, int]:
    """Return the bytes that are free on the disk of a folder, and the bytes of all."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
