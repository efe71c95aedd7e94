"""Image pools with a decoder that obeys the photo."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.adapters.imaging.pool import Imaging
from server.domain.images import CleanImage, Limits
from testkit.pipes import readable
from tryon.protocol.errors import TryOnError

ROOT = Path(__file__).resolve().parents[4]


FAULTY = (str(Path(__file__).with_name("faulty_imaging.py")),)


SMALL = Limits(max_pixels=1_000_000)


LINUX = pytest.mark.skipif("sys.platform != 'linux'", reason="needs /proc and prctl")


Start = Callable[..., Imaging]


def photo(side: int = 100, format: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(file, format, **options)
    return file


async def outcome(work: asyncio.Future[CleanImage] | Any) -> str:
    try:
        return str((await work).width)
    except TryOnError as error:
        return error.code


async def pid_of(imaging: Imaging) -> int:
    """Return the id of the process that would take the next photo."""
    with pytest.raises(TryOnError) as caught:
        await imaging.clean(io.BytesIO(b"pid"))
    return int(caught.value.detail)


async def gone(pid: int, *, seconds: float = 10.0) -> None:
    """Wait until the process has ended, reaped or not."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(file, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    finally:
        asyncio.get_running_loop().remove_reader(file)
        os.close(file)


class Connection:
    """A photo that is a connection: its process reads it, and answers on it."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.ours = ours
        self._theirs = theirs

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self._theirs.fileno()

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


class Inherited:
    """A photo in a file that this process has inherited."""

    def __init__(self, file: int) -> None:
        self._file = file

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self._file


class Gate:
    """A photo that is being worked on for as long as the test wants."""

    def __init__(self) -> None:
        self._connection = Connection(*socket.socketpair())

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def photo(self) -> Any:
        self._connection.ours.send(b"wait")
        return self._connection

    async def reached(self) -> None:
        """Wait until a process works on it."""
        await readable(self._connection.ours.fileno())

    def open(self) -> None:
        self._connection.ours.send(b"!")


def imaging_program() -> tuple[str, ...]:
    return ("-m", "server.adapters.imaging.template")
