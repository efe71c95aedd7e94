"""One file on its way through an image process: its answer, and its result's file."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import Container
from typing import BinaryIO, Final

from server.domain.images import ImageFormat
from server.system.memory_files import memory_file, read_all
from tryon.protocol.errors import CODES, TryOnError, Unprocessable

CLEAN: Final = "clean"
"""The request to clean an uploaded photo; its answer names an :class:`ImageFormat`."""
VERIFY: Final = "verify"
"""The request to verify a result, before its type and whether it was generated.

Its answer names a type.
"""

_DONE: Final = re.compile(r"([A-Za-z0-9/]+) (\d{1,5}) (\d{1,5})", re.ASCII)


class PhotoJob:
    """A file of a client's ``address`` that waits for a process or is with one.

    ``answer`` is kind (one of ``kinds``), width and height of the picture that then
    stands in the file ``result``, or the error that refuses the file.
    """

    __slots__ = ("address", "answer", "kinds", "request", "result", "source")

    def __init__(
        self,
        source: BinaryIO,
        address: str,
        *,
        request: str = CLEAN,
        kinds: Container[str] = ImageFormat.__members__,
    ) -> None:
        self.source = source
        self.address = address
        self.request = request.encode()
        self.kinds = kinds
        self.answer: asyncio.Future[tuple[str, int, int]] = asyncio.get_running_loop().create_future()
        self.result = -1

    def __repr__(self) -> str:
        return f"<PhotoJob {'answered' if self.answer.done() else 'open'}>"

    def open_source(self) -> tuple[int, bool]:
        """Return a descriptor of the photo, and whether the caller must close it.

        A photo in memory is copied into a memory file, one in a file is handed over
        unread. Raises ValueError if it was closed, OSError without memory or
        descriptor.
        """
        if isinstance(self.source, io.BytesIO):
            with self.source.getbuffer() as content:
                return memory_file(content), True
        self.source.flush()
        return self.source.fileno(), False

    def open_result(self) -> int:
        """Return the descriptor of a new, empty file for the picture."""
        self.close()
        self.result = memory_file()
        return self.result

    def refuse(self, error: TryOnError) -> None:
        """Answer with an error, unless there is an answer."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def settle(self, message: bytes) -> bool:
        """Answer with what a process has sent; return False if it makes no sense."""
        line = message.decode(errors="replace")
        code, _, detail = line.partition(" ")
        if code in CODES:
            self.refuse(CODES[code](code, detail or None))
        elif (done := _DONE.fullmatch(line)) and done[1] in self.kinds:
            if not self.answer.done():
                self.answer.set_result((done[1], int(done[2]), int(done[3])))
        else:
            return False
        return True

    async def picture(self, max_bytes: int) -> tuple[bytes, str, int, int]:
        """Wait for the answer; return the picture's file, kind, width and height."""
        kind, width, height = await self.answer
        size = os.fstat(self.result).st_size
        if size > max_bytes:
            raise Unprocessable("unreadable_image")
        return await read_all(self.result, size), kind, width, height

    def close(self) -> None:
        """Close the result's file."""
        if self.result >= 0:
            os.close(self.result)
            self.result = -1
