"""The bytes of a connection: kept until they may be parsed, then parsed; no I/O."""

from __future__ import annotations

from server.web.serving.bodies import Body, ChunkedBody, SizedBody
from server.web.serving.heads import Head, HeadParser


class Incoming:
    """One connection's bytes, as heads and bodies by turns."""

    __slots__ = ("_parser", "_rest", "body")

    def __init__(self) -> None:
        self._rest = b""
        self._parser: HeadParser | None = None
        self.body: Body = SizedBody(0)
        """The body of the last request."""

    def __repr__(self) -> str:
        return f"<Incoming waiting={self.waiting} in_head={self.in_head} {self.body!r}>"

    @property
    def waiting(self) -> int:
        """Return how many bytes are not parsed yet."""
        return len(self._rest)

    @property
    def in_head(self) -> bool:
        """Return whether a head has begun and not ended."""
        return self._parser is not None

    def add(self, data: bytes) -> None:
        """Keep bytes that have arrived."""
        self._rest = self._rest + data if self._rest else bytes(data)

    def head(self) -> Head | None:
        """Parse bytes of a head; return it when it is complete. Raises BadRequest."""
        self._parser = self._parser or HeadParser()
        data, self._rest = self._rest, b""
        found = self._parser.feed(data)
        if found is None:
            return None
        head, self._rest = found
        self._parser = None
        self.body = ChunkedBody() if head.length is None else SizedBody(head.length)
        return head

    def content(self) -> bytes:
        """Parse bytes of a body; return its content. Raises BadRequest."""
        content, self._rest = self.body.feed(self._rest)
        return content

    def take(self) -> bytes:
        """Return the bytes that are not parsed, and keep them no longer."""
        rest, self._rest, self._parser = self._rest, b"", None
        return rest
