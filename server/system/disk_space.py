"""Room on a disk: files that are allocated, and space that is kept for deleting.

SQLite needs room to delete: a commit appends to its write-ahead log. On a disk that is
full to the last byte no row could be erased and no session could end. So the log is
kept at :func:`reserve_bytes`, with blocks for every byte: SQLite overwrites it from its
beginning and takes zeros for its end. Blocks in the log are taken by nothing else, as
free ones are by the program that fills the disk. Emptying the log gives them up for a
moment, and so does the end of the last process; beside it lies a file that is an eighth
larger (:class:`Reserve`), for the log's index. It is deleted to make the log whole
again, or to let the database grow when the log cannot be written back otherwise.

Photos, results and uploads under way leave more free than a deleted reserve gives
(:func:`require_room`), so they cannot take it, and no new session is taken. What is
left are the ends of sessions and their erasure, and an erased photo is larger than the
log of its erasure.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path
from typing import Final

LARGEST_RESERVE_BYTES: Final = 8 * 2**20
"""Size of a reserve on a disk of 128 MiB or more: twice SQLite's write-ahead log at the
size at which it is written back, or the log of erasing 500 sessions one by one.
"""
DISK_SHARE: Final = 16
"""A reserve is at most a 16th of its disk."""
MARGIN: Final = 1.25
"""Free space that photos leave, in reserves: more than one that was just deleted."""

_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


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


def extend(file: int, size: int) -> None:
    """Give a file that other processes write at least this size; change no byte of it.

    posix_fallocate may not be used on such a file: where the file system cannot
    allocate, the C library writes zeros instead, also over bytes that another process
    has written since it looked. Raises OSError (ENOSPC, EOPNOTSUPP).
    """
    fallocate = getattr(_LIBC, "fallocate64", None) or getattr(_LIBC, "fallocate", None)
    if fallocate is None:  # macOS
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if fallocate(file, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def require_room(folder: Path, size: int) -> None:
    """Raise OSError (ENOSPC) unless ``size`` bytes fit and leave room for deleting.

    A network file system may not tell its size (0); then only the write can find out.
    """
    free, disk = _space(folder)
    if disk and free - size < reserve_bytes(disk) * MARGIN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Reserve:
    """The allocated log of an SQLite file, and a file that keeps room for it.

    State: the two files, and whether the file system can extend the log; if not, the
    reserve alone is kept. Any process may change the files at any time: allocating what
    is allocated changes nothing, and neither does deleting what is gone.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(f"{database.name}-reserve")
        self._log = database.with_name(f"{database.name}-wal")
        self._extendable = True

    def __repr__(self) -> str:
        return f"<Reserve {self.path}>"

    def adjust(self) -> bool:
        """Keep log and reserve allocated as far as there is room.

        Return whether there is room for the database to grow. Takes 8 us while nothing
        changes. A disk that cannot be asked counts as one with room: the write that
        follows will find out.
        """
        try:
            free, disk = _space(self.path.parent)
            if not disk:
                return True
            size = reserve_bytes(disk)
            held, log = _size(self.path) > 0, _size(self._log)
            if log < size and self._extend_log(size, log):
                free, log = _space(self.path.parent)[0], _size(self._log)
            if held and log < size and free < size // 8:
                self.release()
                self._extend_log(size, log)
                return False
            if not held and free >= size * (1 + MARGIN):
                self._make(size * 9 // 8)
            return free >= size * MARGIN
        except OSError:
            return True

    def _make(self, size: int) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # another program was faster
                allocate(file, size)
        finally:
            os.close(file)

    def _extend_log(self, size: int, log: int) -> bool:
        """Extend the log as far as there is room; return whether it has grown."""
        if not self._extendable:
            return False
        try:
            file = self._log.open("r+b", buffering=0)
        except FileNotFoundError:
            return False
        with file:
            for part in (1, 2, 4, 8):
                if size // part > log:
                    try:
                        extend(file.fileno(), size // part)
                    except OSError as error:
                        self._extendable = error.errno not in _UNSUPPORTED
                    else:
                        return True
        return False

    def release(self) -> None:
        """Delete the reserve: a write found no room although the log was whole.

        The log is used up and cannot be written back, for the database cannot grow.
        """
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Return the size of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _space(folder: Path) -> tuple[int, int]:
    """Return the bytes that are free on the disk of a folder, and the bytes of all."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
