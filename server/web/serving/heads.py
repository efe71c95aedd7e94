"""The head of a request: bytes in, one :class:`Head` out; no I/O.

llhttp judges the header fields, in C and strictly: no line ends with a bare LF, none is
folded, and a value holds no control character. What llhttp leaves open is decided here:
a head has one request line of three parts, at most :data:`MAX_HEAD_BYTES`, one Host
(RFC 9112 section 3.2) and one way to tell where its body ends (section 6.3). An offer
to upgrade to anything but a WebSocket is ignored (RFC 9110 section 7.8): Java's and
curl's default offers HTTP/2 (``h2c``) with every request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

import httptools

from tryon.protocol.errors import BadRequest

MAX_HEAD_BYTES: Final = 64 * 1024
"""Maximum bytes of the request line and the header fields together."""

MAX_TARGET_BYTES: Final = 8 * 1024
"""Maximum bytes of the path and the query (RFC 9112 section 3 asks for 8,000)."""

MAX_FIELDS: Final = 128
"""Maximum header fields of a request; every look for one visits all of them."""

HeaderFields = list[tuple[bytes, bytes]]

_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@]+)((?:[/?].*)?)", re.ASCII | re.IGNORECASE)
_FRAMING: Final = frozenset({b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"})
_VERSIONS: Final = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_MAX_LENGTH_DIGITS: Final = 18


class HeadTooLarge(BadRequest):
    """The head has too many bytes or fields."""

    status: ClassVar[int] = 431


class TargetTooLong(BadRequest):
    """The target has more than :data:`MAX_TARGET_BYTES` bytes."""

    status: ClassVar[int] = 414


class Head(NamedTuple):
    """A request up to its body."""

    method: str
    path: bytes
    """The path as it was sent, without the query: percent-encoded ASCII."""
    query: bytes
    version: str
    headers: HeaderFields
    """Names in lower case. Of an absolute target the host is that of ``host``."""
    length: int | None
    """Bytes of the body; None: it comes in chunks."""
    keep_alive: bool
    expects_continue: bool
    websocket: bool
    """Whether the client asks for a WebSocket; whether rightly so is not judged yet."""


class HeadParser:
    """The parser of one head."""

    __slots__ = ("_complete", "_framing", "_headers", "_parser", "_raw", "_skipped")

    def __init__(self) -> None:
        self._raw = bytearray()
        self._skipped = 0
        self._headers: HeaderFields = []
        self._framing: HeaderFields = []
        self._complete = False
        self._parser = httptools.HttpRequestParser(self)

    def __repr__(self) -> str:
        return f"<HeadParser {'complete' if self._complete else 'unfinished'} bytes={len(self._raw)}>"

    def feed(self, data: bytes) -> tuple[Head, bytes] | None:
        """Return the head and the bytes after it; None if it is unfinished.

        Raises BadRequest, as early as it can be known.
        """
        if not self._raw:
            size = len(data)
            data = data.lstrip(b"\r\n")  # empty lines before a request count for nothing (RFC 9112 section 2.2)
            self._skipped += size - len(data)
        before = len(self._raw)
        self._raw += data[: MAX_HEAD_BYTES + 1]
        end = self._raw.find(b"\r\n\r\n", max(0, before - 3))
        stop = len(data) if end < 0 else end + 4 - before
        if self._skipped + (before + stop) > MAX_HEAD_BYTES:
            raise HeadTooLarge("bad_request", f"The head of a request is at most {MAX_HEAD_BYTES} bytes.")
        try:
            self._parser.feed_data(data[:stop])
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            raise BadRequest("bad_request", "Not valid HTTP.") from None
        if end < 0:
            return None
        if not self._complete:
            raise BadRequest("bad_request", "Not valid HTTP.")
        del self._parser  # it refers to this object: a cycle for each request would keep the collector busy
        return self._head(), data[stop:]

    # -- callbacks of the parser -------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header field."""
        field = (name.lower(), value.rstrip(b" \t"))
        self._headers.append(field)
        if field[0] in _FRAMING:
            self._framing.append(field)

    def on_headers_complete(self) -> None:
        """Note that the parser agrees about where the head ends."""
        self._complete = True

    # -- what the fields mean ----------------------------------------------------------

    def _head(self) -> Head:
        line = bytes(self._raw[: self._raw.index(b"\r\n")]).split(b" ")
        version = _VERSIONS.get(line[-1])
        if len(line) != 3 or version is None:
            raise BadRequest("bad_request", "A request line is a method, a target, and HTTP/1.1 or HTTP/1.0.")
        if len(self._headers) > MAX_FIELDS:
            raise HeadTooLarge("bad_request", f"A request has at most {MAX_FIELDS} header fields.")
        if len(line[1]) > MAX_TARGET_BYTES:
            raise TargetTooLong("bad_request", f"The target of a request is at most {MAX_TARGET_BYTES} bytes.")
        framing: dict[bytes, list[bytes]] = {}
        for name, value in self._framing:
            framing.setdefault(name, []).append(value)
        hosts, lengths = framing.get(b"host", ()), framing.get(b"content-length", ())
        encodings = framing.get(b"transfer-encoding", ())
        if len(hosts) > 1 or (not hosts and version == "1.1"):
            raise BadRequest("bad_request", "A request has one Host (RFC 9112 section 3.2).")
        if lengths and encodings:
            raise BadRequest("bad_request", "A body has a length or comes in chunks, not both.")
        if encodings:
            _check_chunked(encodings, version)
        path, query, authority = _parts_of(line[1])
        if authority:  # it counts, and not Host (RFC 9112 section 3.2.2)
            self._headers = [field for field in self._headers if field[0] != b"host"] + [(b"host", authority)]
        connection = _tokens(framing.get(b"connection", ()))
        return Head(
            method=line[0].decode("ascii"),
            path=path,
            query=query,
            version=version,
            headers=self._headers,
            length=None if encodings else _length(lengths),
            keep_alive=b"close" not in connection and (version == "1.1" or b"keep-alive" in connection),
            expects_continue=version == "1.1" and b"100-continue" in _tokens(framing.get(b"expect", ())),
            websocket=b"upgrade" in connection and b"websocket" in _tokens(framing.get(b"upgrade", ())),
        )


def _tokens(values: Sequence[bytes]) -> list[bytes]:
    return [token.strip().lower() for value in values for token in value.split(b",")]


def _length(values: Sequence[bytes]) -> int:
    """Return the body's length. Raises BadRequest unless it is one plain number."""
    if not values:
        return 0
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > _MAX_LENGTH_DIGITS:
        raise BadRequest("bad_request", "Content-Length is one number of bytes.")
    return int(values[0])


def _check_chunked(values: Sequence[bytes], version: str) -> None:
    """Accept a chunked body, and raise BadRequest for any other coding.

    With HTTP/1.0 it would be a framing that other parties read differently (RFC 9112
    section 6.1).
    """
    if version == "1.0" or len(values) != 1 or values[0].lower() != b"chunked":
        raise BadRequest("bad_request", "The only transfer coding is chunked, once, and with HTTP/1.1.")


def _parts_of(target: bytes) -> tuple[bytes, bytes, bytes]:
    """Return path, query and authority of a request's target (RFC 9112 section 3.2).

    The authority is empty unless the target is absolute. Raises BadRequest.
    """
    authority = b""
    if not target.startswith(b"/") and target != b"*":
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise BadRequest("bad_request", "The target of a request is a path or an http URL.")
        authority, target = match[1], match[2]
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        raise BadRequest("bad_request", "The target of a request has no fragment.")
    path, _, query = target.partition(b"?")
    return path, query, authority
