"""Jobs for processors that run in the tests' own process, or in a pool of theirs."""

from __future__ import annotations

import os
from typing import Any

from server.system.memory_files import memory_file, path_of
from tryon.processor import Input, Job


class MemoryPath(str):
    """The path of a memory file, which is gone with the last reference to it."""

    file: int

    @classmethod
    def of(cls, content: bytes) -> MemoryPath:
        """Return the path of a new file with this content."""
        file = memory_file(content)
        path = cls(path_of(file))
        path.file = file
        return path

    def __del__(self) -> None:
        os.close(self.file)


def input_of(content: bytes, type: str = "image/jpeg", *, role: str = "person", index: int = 0) -> Input:
    """Return an input in memory."""
    return Input(role=role, index=index, type=type, path=MemoryPath.of(content), bytes=len(content))


def job_of(
    photo: bytes = b"a photo",
    type: str = "image/jpeg",
    *,
    garment: bytes | None = None,
    garment_type: str = "image/png",
    session_id: str = "s1",
    **more: Any,
) -> Job:
    """Return a job with a photo of a person, and one of a garment if there is any."""
    inputs = [input_of(photo, type)]
    if garment is not None:
        inputs.append(input_of(garment, garment_type, role="garment"))
    return Job(session_id=session_id, inputs=tuple(inputs), **more)
