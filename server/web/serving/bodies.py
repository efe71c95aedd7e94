"""The body of a request: bytes in, content out, its end found; no I/O.

llhttp alone would take chunk extensions and trailers of any size, and hand trailers on
as if they were header fields (measured: 38 MiB of them cost a process 900 MiB, and an
``Authorization`` among them authenticates). Here they are bounded and dropped, as RFC
9112 section 7.1.2 allows, and a body that is cut into crumbs is refused: its chunks
would cost more than its content.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from tryon.protocol.errors import BadRequest

MAX_LINE_BYTES: Final = 256
"""Maximum bytes of a chunk's size with its extensions."""

MAX_TRAILER_BYTES: Final = 8 * 1024
"""Maximum bytes of all trailers."""

FREE_OVERHEAD_BYTES: Final = 16 * 1024
"""Bytes of sizes, extensions and line ends that any body may have."""

OVERHEAD_SHARE: Final = 8
"""Bytes of content that allow one more byte of framing."""

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?", re.ASCII)
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*", re.ASCII)


class Body(Protocol):
    """The body of one request, as far as it has arrived."""

    @property
    def done(self) -> bool:
        """Whether the body is complete."""

    @property
    def unfinished_line(self) -> int:
        """A number above 0 if a size or the trailers have begun and not ended.

        Another line has another number.
        """

    @property
    def left(self) -> int:
        """Bytes that are still to come, as far as is known."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the content in ``data``, and the bytes after the body.

        Raises BadRequest for chunks that are malformed.
        """


class SizedBody:
    """A body of known length, which may be 0."""

    __slots__ = ("left",)

    unfinished_line: Final = 0

    def __init__(self, length: int) -> None:
        self.left = length

    def __repr__(self) -> str:
        return f"<SizedBody left={self.left}>"

    @property
    def done(self) -> bool:
        """Whether the body is complete."""
        return not self.left

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the content in ``data``, and the bytes after the body."""
        content, rest = data[: self.left], data[self.left :]
        self.left -= len(content)
        return content, rest


class ChunkedBody:
    """A body in chunks (RFC 9112 section 7.1)."""

    __slots__ = ("_content", "_line", "_lines", "_overhead", "_trailers", "_within", "done", "left")

    def __init__(self) -> None:
        self.done = False
        self.left = 0
        """Bytes that are still to come of the chunk."""
        self._within = False
        """Whether a chunk's content has begun, and its CRLF has not come."""
        self._trailers: int | None = None
        """Bytes of the trailers, once the last chunk has come."""
        self._line = b""
        self._lines = 1
        self._content = 0
        self._overhead = 0

    def __repr__(self) -> str:
        return f"<ChunkedBody content={self._content} left={self.left} {'done' if self.done else 'unfinished'}>"

    @property
    def unfinished_line(self) -> int:
        """The number of the line that has begun; all trailers count as one line."""
        if self.done or not (self._line or self._trailers is not None):
            return 0
        return self._lines

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the content in ``data``, and the bytes after the body."""
        data, self._line = self._line + data, b""
        content: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self.left:
                piece = data[at : at + self.left]
                content.append(piece)
                at += len(piece)
                self.left -= len(piece)
                self._content += len(piece)
                continue
            stop = data.find(b"\r\n", at, at + MAX_TRAILER_BYTES)
            if stop < 0:
                self._keep(data[at:])
                at = len(data)
                break
            self._take(data[at:stop])
            at = stop + 2
        return b"".join(content), data[at:]

    def _keep(self, line: bytes) -> None:
        """Keep the beginning of a line that has not ended."""
        most = MAX_LINE_BYTES if self._trailers is None else MAX_TRAILER_BYTES - self._trailers
        if (self._within and line != b"\r") or len(line) > most or b"\n" in line or b"\r" in line[:-1]:
            raise _malformed()
        self._line = line

    def _take(self, line: bytes) -> None:
        """Take one whole line: a chunk's end, a size or a trailer."""
        if self._within:
            if line:
                raise _malformed()
            self._within = False
        elif self._trailers is None:
            self._begin(line)
        elif line:
            self._trailers += len(line) + 2
            if self._trailers > MAX_TRAILER_BYTES or not _TRAILER.fullmatch(line):
                raise _malformed()
            return
        else:
            self.done = True
        self._lines += 1
        self._overhead += len(line) + 2
        if self._overhead > FREE_OVERHEAD_BYTES + self._content // OVERHEAD_SHARE:
            raise BadRequest("bad_request", "The body is cut into too many chunks.")

    def _begin(self, line: bytes) -> None:
        """Begin a chunk with its size; 0 is the last one."""
        match = _SIZE.fullmatch(line)
        if match is None or len(line) > MAX_LINE_BYTES:
            raise _malformed()
        self.left = int(match[1], 16)
        self._within = self.left > 0
        if not self._within:
            self._trailers = 0


def _malformed() -> BadRequest:
    return BadRequest("bad_request", "The chunks of the body are malformed.")
