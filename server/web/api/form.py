"""The multipart parser of an upload: chunks in, parts out, every cap on the way.

The parser calls plain functions and never waits; :mod:`server.web.api.uploads` moves
large parts to files between two chunks.
"""

from __future__ import annotations

import logging
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.web.api.params import MAX_PARAMS_BYTES
from server.web.api.parts import IMAGES, Part
from tryon.protocol.errors import BadRequest, TooLarge, Unprocessable, UnsupportedMedia

NAMES: Final = IMAGES | {"params"}
"""Names of the parts that are read; the content of any other is ignored."""

MAX_PARTS: Final = 16
MAX_PART_HEADERS: Final = 8
MAX_PART_HEADER_BYTES: Final = 4096
MAX_BOUNDARY_BYTES: Final = 70
"""RFC 2046 section 5.1.1."""

# The parser warns of every malformed body in its own words; the caller gets a
# bad_multipart, and that is logged.
_SILENT: Final = logging.getLogger("tryon.uploads.parser")
_SILENT.setLevel(logging.CRITICAL + 1)


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type names.

    Raises UnsupportedMedia if it is no form, BadRequest if the boundary is too long.
    """
    media_type, options = parse_options_header(content_type[:MAX_PART_HEADER_BYTES])
    boundary = options.get(b"boundary", b"")
    if media_type != b"multipart/form-data" or not boundary:
        raise UnsupportedMedia("not_multipart")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise BadRequest("bad_multipart", "The multipart boundary is longer than 70 characters.")
    return boundary


class Form:
    """The parts of a body that is being parsed, and where in it the parser is."""

    def __init__(self, boundary: bytes, *, image_max_bytes: int, fingerprint: bool) -> None:
        self.parts: dict[str, Part] = {}
        self.ended = False
        self._image_max_bytes = image_max_bytes
        self._fingerprint = fingerprint
        self._part: Part | None = None
        self._seen = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition: bytes | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        self._parser.logger = _SILENT

    def __repr__(self) -> str:
        return f"<Form parts={sorted(self.parts)} {'ended' if self.ended else 'incomplete'}>"

    def feed(self, chunk: bytes) -> None:
        """Parse the next chunk.

        Raises BadRequest, TooLarge, UnsupportedMedia or Unprocessable for the first
        thing that is wrong.
        """
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise BadRequest("bad_multipart") from None

    def close(self) -> None:
        """Drop every part."""
        for part in self.parts.values():
            part.close()

    # -- callbacks of the parser -------------------------------------------------------

    def _on_part_begin(self) -> None:
        self._seen += 1
        if self._seen > MAX_PARTS:
            raise BadRequest("bad_multipart", f"The body has more than {MAX_PARTS} parts.")
        self._disposition = None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            if self._disposition is not None:
                raise BadRequest("bad_multipart", "A part has two Content-Disposition headers.")
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise BadRequest("bad_multipart", "A part has no name.")  # RFC 7578 section 4.2
        text = name.decode("utf-8", "replace")
        if text not in NAMES:
            self._part = None
            return
        if text in self.parts:
            raise BadRequest("bad_multipart", f"There is more than one part named {text}.")
        self._part = self.parts[text] = Part(text, fingerprint=self._fingerprint)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is None:
            return
        if part.name == "params":
            if part.size + end - start > MAX_PARAMS_BYTES:
                raise Unprocessable("bad_params")
        elif part.size + end - start > self._image_max_bytes:
            raise TooLarge
        part.append(data[start:end])

    def _on_part_end(self) -> None:
        if self._part is not None and self._part.size and not self._part.checked:
            self._part.check()
        self._part = None

    def _on_end(self) -> None:
        self.ended = True
