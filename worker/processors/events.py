"""A reader of Server-Sent Events (WHATWG HTML, section 9.2.6), without I/O of its own.

:mod:`~worker.processors.upstream` opens the stream and hands in its pieces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from worker.processors.answers import read_json


class TooLong(Exception):
    """An event, or a line, beyond the bound."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    name: str
    """``message`` where the server gave none."""
    data: str = field(repr=False)
    id: str = ""

    def json(self) -> Any:
        """Return the data's JSON value. Raises ProcessorError: it is none."""
        return read_json(self.data)


async def events_of(pieces: AsyncIterator[bytes], max_event_bytes: int) -> AsyncIterator[Event]:
    """Yield the events; ``retry`` is ignored. Raises :class:`TooLong`."""
    data: list[str] = []
    name, identity, size = "", "", 0
    async for line in _lines(pieces, max_event_bytes):
        size += len(line)
        if size > max_event_bytes:
            raise TooLong
        if not line:
            if data:
                yield Event(name or "message", "\n".join(data), identity)
            name, size = "", 0
            data.clear()
            continue
        key, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            data.append(value)
        elif key == "event":
            name = value
        elif key == "id":
            identity = value


async def _lines(pieces: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the lines, which end in CR, LF or both."""
    parts: list[bytes] = []
    size, first, after_cr = 0, True, False
    async for piece in pieces:
        if after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        after_cr = piece.endswith(b"\r") or (after_cr and not piece)
        if first:
            piece, first = piece.removeprefix(b"\xef\xbb\xbf"), False
        *whole, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for end in whole:
            yield b"".join((*parts, end))
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > max_bytes:
            raise TooLong
