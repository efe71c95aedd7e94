"""Files in memory: what is written is read, and no descriptor is lost."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from server.system.memory_files import LARGE_BYTES, is_memory_file, memory_file, read_all, write_all


@pytest.mark.parametrize("size", [0, 1, LARGE_BYTES - 1, LARGE_BYTES, 3 * LARGE_BYTES])
async def test_content_is_read_as_written(size: int) -> None:
    """Small files and large ones, which a thread reads, come back whole."""
    content = os.urandom(size)
    file = memory_file(content)
    try:
        assert os.fstat(file).st_size == size
        assert await read_all(file, size) == content
    finally:
        os.close(file)


async def test_views_are_written_by_their_bytes() -> None:
    """A view of items larger than a byte is written whole."""
    file = memory_file()
    try:
        write_all(file, memoryview(bytearray(b"\1\0\2\0")).cast("H"))
        assert await read_all(file, 4) == b"\1\0\2\0"
    finally:
        os.close(file)


async def test_cancelled_read_lets_descriptor_close() -> None:
    """A reader that is cancelled while the thread reads may close its descriptor."""
    file = memory_file(bytes(8 * LARGE_BYTES))
    reading = asyncio.create_task(read_all(file, 8 * LARGE_BYTES))
    await asyncio.sleep(0)
    reading.cancel()
    os.close(file)
    with pytest.raises(asyncio.CancelledError):
        await reading


def test_only_a_memory_file_is_one(tmp_path: Path) -> None:
    """Whatever a read could wait for is told from a file in memory."""
    end, other = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        others = [end, ours.fileno(), os.open("/dev/zero", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)]
        memory = memory_file(b"x")
        try:
            assert is_memory_file(memory)
            assert [is_memory_file(each) for each in others] == [False] * 4
        finally:
            for each in (memory, other, end, *others[2:]):
                os.close(each)
