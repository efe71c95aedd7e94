"""Image pools with a decoder that obeys the photo."""

from __future__ import annotations

import asyncio
import io
import os
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


class Gate:
    """A photo that is being worked on for as long as the test wants."""

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / "reached", folder / "open")
        for path in self._paths:
            os.mkfifo(path)
        self._reached, self._open = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self._paths)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reached)
        os.close(self._open)

    @property
    def words(self) -> bytes:
        return "wait {} {}".format(*self._paths).encode()

    def photo(self) -> io.BytesIO:
        return io.BytesIO(self.words)

    async def reached(self) -> None:
        """Wait until a process works on it."""
        await readable(self._reached)

    def open(self) -> None:
        os.write(self._open, b"!")


def imaging_program() -> tuple[str, ...]:
    return ("-m", "server.adapters.imaging.cleaner")
