"""The files in which the processes of one installation count, seen from their parent.

Each process that ``tryon up`` keeps running has a name (``web1``), and counts in files
of that name: when it is started again it goes on where the process before it ended. So
no counter steps back, no file is left behind, and nothing has to be added up when a
process dies. ``tryon up`` empties files in place and never gives up their blocks, which
a full disk would not give back.

Imported by ``tryon up``, which stays small: nothing here may load prometheus_client.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Final

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder that processes share; prometheus_client's own variable."""
NAME_VARIABLE: Final = "PROMETHEUS_MULTIPROC_NAME"
"""Names the process among those that share the folder; :func:`take_name` by default."""

EMPTY: Final = struct.pack("ii", 8, 0)
"""Begin of a file without entries: how many bytes are used, these among them."""


def prepare(folder: Path, names: Collection[str]) -> None:
    """Make the folder, empty the files of these processes and delete all others.

    Raises OSError.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for file in folder.iterdir():
        if file.stem.rpartition("_")[2] in names and file.suffix == ".db":
            _empty(file)
        else:
            file.unlink(missing_ok=True)


def take_name(folder: Path) -> str:
    """Return a name that no other living process of this folder has.

    For a process that was given none: the lowest free number, so that one that is
    started in the place of another counts on where that one ended. It keeps the name
    until it ends, however that comes. Raises OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in itertools.count(1):
        held = os.open(folder / f"slot{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
        else:  # stays open: the lock ends with the process
            return f"slot{number}"
    raise AssertionError("numbers have no end")


def forget_dead(folder: Path) -> None:
    """Empty the gauges of the processes that have ended without a word.

    A living process holds the lock of each of its files
    (:mod:`~server.telemetry.shared_values`).
    """
    for file in folder.glob("gauge_live*.db"):
        with contextlib.suppress(OSError):
            opened = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.pwrite(opened, EMPTY, 0)
            finally:
                os.close(opened)


def forget_gauges(folder: Path, name: str) -> None:
    """Empty the gauges of a process that has ended.

    Its counters stay counted; its sockets and connections are gone with it.
    """
    for file in folder.glob(f"gauge_live*_{name}.db"):
        _empty(file)


def _empty(file: Path) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, EMPTY, 0)
        finally:
            os.close(descriptor)
    except OSError:  # a file system that writes nothing in place
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
