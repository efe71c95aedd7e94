"""Metric values in files that several processes share, safe on a full disk.

prometheus_client maps sparse files: on a disk without a free block the first write to a
page of them is SIGBUS. These files have the same names and the same format, and are
allocated before they are mapped. While there is no room for one, or another process of
the same name has it, the process counts in memory of its own, which other processes do
not see, and tries again every second.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from server.system.disk_space import allocate
from server.telemetry.metric_files import EMPTY, FOLDER_VARIABLE, NAME_VARIABLE, take_name

FILE_BYTES: Final = 256 * 2**10
"""First size of a file: three times what the histograms of every route take."""
RETRY_SECONDS: Final = 1.0
"""Pause between two tries to allocate a file."""
_ENTRY_BYTES: Final = 32
"""Most bytes that an entry takes beyond its key: two sizes, padding and two doubles."""


class SharedValues(MmapedDict):
    """Values by key, in a file that other processes read; one process writes it.

    A file with entries is continued.
    """

    def __init__(self, filename: str) -> None:
        self._fname = filename
        self._capacity = FILE_BYTES
        with contextlib.suppress(OSError):
            self._capacity = max(FILE_BYTES, os.stat(filename).st_size)
        self._m = mmap.mmap(-1, self._capacity)
        self._m[: len(EMPTY)] = EMPTY
        self._used = len(EMPTY)
        self._positions: dict[str, int] = {}
        self._shared = False
        self._retry_at = math.inf
        self._continue()
        self._share()

    def __repr__(self) -> str:
        return f"<SharedValues {self._fname} used={self._used} {'shared' if self._shared else 'in memory'}>"

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a value."""
        super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]  # prometheus_client has no annotation there
        if not self._shared and time.monotonic() >= self._retry_at:
            self._share()

    def close(self) -> None:
        """Release the memory; the file stays."""
        self._m.close()

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + _ENTRY_BYTES > self._capacity:
            self._move(mmap.mmap(-1, self._capacity * 2))
            self._shared = False
            self._share()
        super()._init_value(key)  # type: ignore[no-untyped-call]  # prometheus_client has no annotation there

    def _continue(self) -> None:
        """Take over what the process of this name before this one has counted."""
        with contextlib.suppress(OSError, RuntimeError, ValueError, struct.error):  # none, or a damaged one
            entries = list(self.read_all_values_from_file(self._fname))  # type: ignore[no-untyped-call]  # likewise
            for key, value, timestamp, _ in entries:
                self.write_value(key, value, timestamp)

    def _share(self) -> None:
        """Allocate the file and go on in it; stay in memory if that is impossible."""
        self._retry_at = time.monotonic() + RETRY_SECONDS
        draft = f"{self._fname}.draft"  # a reader never finds a file without its beginning
        with contextlib.suppress(OSError):
            name = self._fname if os.path.exists(self._fname) else draft
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Two writers would overwrite each other's entries. The memory has a
                # descriptor of its own, so the lock lasts as long as the memory.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                allocate(file, self._capacity)
                self._move(mmap.mmap(file, self._capacity))
                if name == draft:
                    os.rename(draft, self._fname)
                self._shared = True
            finally:
                os.close(file)
                if name == draft and not self._shared:
                    os.unlink(draft)

    def _move(self, to: mmap.mmap) -> None:
        """Copy everything to other memory, and go on there."""
        to[len(EMPTY) : self._used] = self._m[len(EMPTY) : self._used]
        to[: len(EMPTY)] = struct.pack("ii", self._used, 0)
        self._m.close()
        self._m, self._capacity = to, len(to)


def share_values() -> None:
    """Keep the values of all metrics made from now on in shared files.

    Where :data:`~server.telemetry.metric_files.FOLDER_VARIABLE` names a folder; else
    each process counts for itself.
    """
    if FOLDER_VARIABLE not in os.environ:
        return
    main = os.getpid()
    main_name = os.environ.get(NAME_VARIABLE) or _own_name(Path(os.environ[FOLDER_VARIABLE]), main)

    def process_name() -> str:
        pid = os.getpid()
        return main_name if pid == main else f"{main_name}-{pid}"  # a fork has files of its own

    values.MmapedDict = SharedValues  # type: ignore[attr-defined,assignment]  # the one way
    values.ValueClass = values.MultiProcessValue(process_name)  # type: ignore[no-untyped-call]  # no annotation there


def _own_name(folder: Path, pid: int) -> str:
    try:
        return take_name(folder)
    except OSError:  # it counts in memory: a folder without room, or that cannot be written
        return str(pid)
