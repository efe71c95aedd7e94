"""A parser for Server-Sent Events (WHATWG HTML, section 9.2.6), without I/O."""

from __future__ import annotations

from collections.abc import Iterator


class EventStream:
    """The stream as far as it has arrived.

    ``retry_seconds``: the last ``retry:`` of the server. Fields other than ``data`` and
    ``retry`` are ignored; a carriage return alone does not end a line.
    """

    __slots__ = ("_data", "_rest", "retry_seconds")

    def __init__(self) -> None:
        self.retry_seconds: float | None = None
        self._rest = b""
        self._data: list[bytes] = []

    def __repr__(self) -> str:
        return f"<EventStream pending={len(self._rest)} retry={self.retry_seconds}>"

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of each event that is complete with ``piece``.

        Raises ValueError for a ``retry`` that is no number of milliseconds.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"retry:"):
                self.retry_seconds = int(line[6:]) / 1000
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data.clear()
