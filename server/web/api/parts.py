"""One part of an upload's form: its bytes in memory, or in an anonymous file.

Whatever dies, nothing stays on the disk: the file never has a name.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import BinaryIO

from server.adapters.files.threads import Lent
from server.adapters.imaging.pool import ACCEPTED
from server.domain.images import MAGIC_BYTES, refusal, refused_for_role, sniff
from server.system.disk_space import require_room
from tryon.processor.interface import Role
from tryon.protocol.errors import UnsupportedMedia


class Part:
    """The content of one part, and its digest if a fingerprint was asked for.

    ``role``: that of the image in it; None: it holds no image.
    """

    __slots__ = ("_buffer", "_digest", "_file", "_lent", "checked", "name", "role", "size")

    def __init__(self, name: str, role: Role | None = None, *, fingerprint: bool) -> None:
        self.name = name
        self.role = role
        self.size = 0
        self.checked = role is None
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._lent = Lent(self._close)
        self._digest = hashlib.sha256() if fingerprint else None

    def __repr__(self) -> str:
        return f"<Part {self.name} size={self.size} spilt={self.spilt}>"

    def append(self, data: bytes) -> None:
        """Add ``data``; check an image as soon as its first bytes are here."""
        self.size += len(data)
        self._buffer += data
        if not self.checked and self.size >= MAGIC_BYTES:
            self.check()

    def check(self) -> None:
        """Check an image's format by its first bytes, which are still in memory then.

        Raises UnsupportedMedia.
        """
        self.checked = True
        head = bytes(self._buffer[:MAGIC_BYTES])
        known = sniff(head)
        if known is None or known not in ACCEPTED:
            raise UnsupportedMedia("unsupported_image", refusal(head), part=self.name)
        if self.role is not None and (refused := refused_for_role(known, self.role.formats)):
            raise UnsupportedMedia("unsupported_image", refused, part=self.name)

    @property
    def pending(self) -> int:
        """Return how many bytes are in memory."""
        return len(self._buffer)

    @property
    def spilt(self) -> bool:
        """Return whether the part has a file."""
        return self._file is not None

    def peek(self) -> bytes:
        """Return the bytes in memory."""
        return bytes(self._buffer)

    def take(self) -> bytes:
        """Return the bytes in memory, and keep them no longer."""
        data = bytes(self._buffer)
        self._buffer.clear()
        if self._digest is not None:
            self._digest.update(data)
        return data

    def write(self, folder: Path) -> None:
        """Move the bytes in memory to the file. Blocks.

        Raises OSError, also if that left no room on the disk for deleting.
        """
        with self._lent.use():
            require_room(folder, len(self._buffer))
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by the caller of content()
            self._file.write(self.take())

    def rewind(self, folder: Path) -> None:
        """Write the rest of a part that has a file, and return to its start. Blocks."""
        if self._file is not None:
            self.write(folder)
            with self._lent.use():
                self._file.seek(0)  # flushes, too: a full disk shows here at the latest

    def content(self) -> BinaryIO:
        """Return the content at its beginning; the caller closes it from now on."""
        file, self._file = self._file, None
        return file or io.BytesIO(self.take())

    def digest(self) -> bytes:
        """Return the SHA-256 of the content, if it was asked for, else nothing.

        Complete only after :meth:`content`.
        """
        return self._digest.digest() if self._digest is not None else b""

    def close(self) -> None:
        """Drop everything, at the end of a write that the storage does not end.

        A content that was handed out stays open.
        """
        self._lent.close()

    def _close(self) -> None:
        self._buffer.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
