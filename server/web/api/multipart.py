"""A streaming parser of multipart bodies: chunks in, events out.

Pure and linear: every byte is looked at a bounded number of times, by searches that run
in C, whatever the body holds and however it is cut. :mod:`server.web.api.form` says
what the parts mean.

The grammar of RFC 2046 section 5.1.1, with everything optional that clients send:
a preamble before the first delimiter, white space behind a delimiter (transport
padding), folded headers, parts without a content, and an epilogue. A line that begins
with the boundary is a delimiter, so one that goes on with anything else is malformed:
the same section forbids it in a part, and nothing is searched behind it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final

from tryon.protocol.errors import BadRequest

MAX_BOUNDARY_BYTES: Final = 70
"""RFC 2046 section 5.1.1."""

MAX_PREAMBLE_BYTES: Final = 64 * 1024
"""A body without its boundary is refused here, not when all of it has come."""

MAX_PADDING_BYTES: Final = 1000
"""White space behind a delimiter: the rest of a line (RFC 5322 section 2.1.1)."""

MAX_HEADERS: Final = 16
"""Headers of one part; three are usual."""

MAX_HEADER_BYTES: Final = 4096
"""One header of a part, unfolded."""

MAX_HEADER_BLOCK_BYTES: Final = 16 * 1024
"""All headers of one part."""

_LINE_BREAK_BEFORE_SPACE: Final = re.compile(rb"\r\n[ \t]+")
_NAME: Final = re.compile(rb"[\x21-\x39\x3b-\x7e]+")  # RFC 5322 section 2.2
_PARAMETER: Final = re.compile(
    rb'[ \t]*;[ \t]*([^\s;="]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"(?=[ \t]*(?:;|$))|[^;]*)', re.S
)
_QUOTED_PAIR: Final = re.compile(rb'\\(["\\])')

Headers = list[tuple[bytes, bytes]]
"""The headers of a part, in their order: names in lower case, values unfolded."""


class PartEnd(enum.Enum):
    """The end of a part."""

    END = enum.auto()


Event = Headers | bytes | PartEnd
"""A part begins with its headers; then comes its content, in pieces; then its end."""


class _State(enum.Enum):
    PREAMBLE = enum.auto()
    DELIMITER = enum.auto()
    HEADERS = enum.auto()
    CONTENT = enum.auto()
    EPILOGUE = enum.auto()


class MultipartParser:
    """The place in a body up to which it is parsed, and the bytes that wait for more.

    Those are less than a delimiter, a padding or a block of headers.
    """

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._state = _State.PREAMBLE
        self._data = b"\r\n"  # the first delimiter needs no line break before it
        self._skip = 0
        """Bytes before the content: the empty line, which is also the line break of a
        delimiter that follows at once."""
        self._preamble = 0

    def __repr__(self) -> str:
        return f"<MultipartParser {self._state.name.lower()}>"

    @property
    def found(self) -> bool:
        """Return whether the boundary was found."""
        return self._state is not _State.PREAMBLE

    @property
    def ended(self) -> bool:
        """Return whether the last boundary was found; an epilogue may follow."""
        return self._state is _State.EPILOGUE

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Parse the next chunk; raise BadRequest for the first thing that is wrong.

        The events must be read to their end.
        """
        self._data += chunk
        going = True
        while going:
            match self._state:
                case _State.PREAMBLE:
                    skipped, going = self._up_to_delimiter()
                    self._preamble += len(skipped)
                    if self._preamble > MAX_PREAMBLE_BYTES and not going:
                        raise BadRequest("bad_multipart", NO_BOUNDARY)
                case _State.DELIMITER:
                    going = self._end_delimiter()
                case _State.HEADERS:
                    going = (headers := self._headers()) is not None
                    if headers is not None:
                        yield headers
                case _State.CONTENT:
                    content, going = self._up_to_delimiter()
                    if content:
                        yield content
                    if going:
                        yield PartEnd.END
                case _State.EPILOGUE:
                    self._data, going = b"", False

    def _up_to_delimiter(self) -> tuple[bytes, bool]:
        """Return the content that is certain, and whether a delimiter ends it."""
        data, delimiter, skip = self._data, self._delimiter, self._skip
        at = data.find(delimiter)
        if at >= 0:
            self._data, self._state, self._skip = data[at + len(delimiter) :], _State.DELIMITER, 0
            return data[skip:at], True
        # A delimiter has no CR but its first byte: it can only begin at the last one.
        at = data.rfind(b"\r", max(0, len(data) - len(delimiter) + 1))
        if at < 0 or not delimiter.startswith(data[at:]):
            at = len(data)
        if at >= skip:
            self._data, self._skip = data[at:], 0
        return data[skip:at], False

    def _end_delimiter(self) -> bool:
        """Go on behind a delimiter; return False if more bytes must decide how."""
        if self._data.startswith(b"--"):
            self._state = _State.EPILOGUE
            return True
        rest = self._data.lstrip(b" \t")
        if rest.startswith(b"\r\n"):
            self._data, self._state = rest, _State.HEADERS
            return True
        if (rest and rest != b"\r" and self._data != b"-") or len(self._data) > MAX_PADDING_BYTES:
            raise BadRequest("bad_multipart", "A boundary is followed by neither a line break (CRLF) nor two hyphens.")
        return False

    def _headers(self) -> Headers | None:
        """Return the headers of a part once all are here; the data begins with CRLF."""
        end = self._data.find(b"\r\n\r\n")
        if (end if end >= 0 else len(self._data)) > MAX_HEADER_BLOCK_BYTES:
            raise BadRequest("bad_multipart", f"The headers of a part are longer than {MAX_HEADER_BLOCK_BYTES} bytes.")
        if end < 0:
            return None
        block, self._data = self._data[2:end], self._data[end + 2 :]
        self._state, self._skip = _State.CONTENT, 2
        return _parsed(block)


NO_BOUNDARY: Final = "The boundary that the Content-Type names is not in the body."


def _parsed(block: bytes) -> Headers:
    lines = _LINE_BREAK_BEFORE_SPACE.sub(b" ", block).split(b"\r\n") if block else []
    if len(lines) > MAX_HEADERS:
        raise BadRequest("bad_multipart", f"A part has more than {MAX_HEADERS} headers.")
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if len(line) > MAX_HEADER_BYTES:
            raise BadRequest("bad_multipart", f"A header of a part is longer than {MAX_HEADER_BYTES} bytes.")
        if not colon or not _NAME.fullmatch(name) or any(each in value for each in (b"\r", b"\n", b"\0")):
            raise BadRequest("bad_multipart", "A header of a part is malformed.")
        headers.append((name.lower(), value.strip(b" \t")))
    return headers


def parameters(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return a header's value in lower case, and its parameters (RFC 2045 section 5.1).

    Names of parameters are in lower case; values may be quoted, and are taken up to the
    next semicolon where the quotes are wrong. Extended ones (``filename*``) have their
    star in the name. Raises BadRequest if a parameter stands twice.
    """
    kind, semicolon, _ = value.partition(b";")
    found: dict[bytes, bytes] = {}
    at = len(kind)
    while semicolon and (match := _PARAMETER.match(value, at)):
        name, text = match[1].lower(), match[2].strip(b" \t")
        if len(text) > 1 and text.startswith(b'"') and text.endswith(b'"'):
            text = _QUOTED_PAIR.sub(rb"\1", text[1:-1])
        if name in found:
            raise BadRequest("bad_multipart", "A header has the same parameter twice.")
        found[name] = text
        at = match.end()
    return kind.strip(b" \t").lower(), found
