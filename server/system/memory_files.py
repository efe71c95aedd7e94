"""Anonymous files in memory: how a photo travels to a process and a picture back.

A descriptor is sent over a socket and the bytes are not copied through it. An image
process imports this, so nothing here may load an event loop at import time.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Final

LARGE_BYTES: Final = 2**20
"""A file of this size or more is read on a thread: 1 MiB takes 0.2 ms."""


def memory_file(content: bytes | memoryview = b"") -> int:
    """Return the descriptor of a new file without a name; the caller closes it.

    Raises OSError: no memory or no descriptor is left.
    """
    if sys.platform == "linux":
        file = os.memfd_create("photo")
    else:
        import tempfile

        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    try:
        write_all(file, content)
    except BaseException:
        os.close(file)
        raise
    return file


def write_all(file: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data`` at the file's position."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(file, left) :]


def path_of(file: int) -> str:
    """Return a path at which this process can open the file again."""
    return f"/proc/self/fd/{file}" if sys.platform == "linux" else f"/dev/fd/{file}"


def is_memory_file(file: int) -> bool:
    """Return whether a descriptor that came from foreign code is a file in memory.

    Reading anything else may block for ever.
    """
    if sys.platform != "linux":
        return stat.S_ISREG(os.fstat(file).st_mode)
    import fcntl

    try:
        fcntl.fcntl(file, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that mean this process lacks descriptors or memory; others may give some back.
"""


async def read_all(file: int, size: int) -> bytes:
    """Return the first ``size`` bytes, read on a thread if they are many.

    The descriptor may be closed as soon as the caller has been cancelled.
    """
    if size < LARGE_BYTES:
        return os.pread(file, size, 0)
    import asyncio

    return await asyncio.to_thread(_read_and_close, os.dup(file), size)  # the thread goes on when this is cancelled


def _read_and_close(file: int, size: int) -> bytes:
    try:
        return os.pread(file, size, 0)
    finally:
        os.close(file)
