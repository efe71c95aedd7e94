"""The form of an upload: chunks in, parts out, every cap on the way.

It calls plain functions and never waits; :mod:`server.web.api.uploads` moves large
parts to files between two chunks. :mod:`server.web.api.multipart` knows the framing.
"""

from __future__ import annotations

from typing import Final

from server.web.api.multipart import (
    MAX_BOUNDARY_BYTES,
    NO_BOUNDARY,
    Headers,
    MultipartParser,
    PartEnd,
    parameters,
)
from server.web.api.params import MAX_PARAMS_BYTES
from server.web.api.parts import IMAGES, Part
from tryon.protocol.errors import BadRequest, TooLarge, Unprocessable, UnsupportedMedia

NAMES: Final = IMAGES | {"params"}
"""Names of the parts that are read; the content of any other is ignored."""

MAX_PARTS: Final = 16

MAX_CONTENT_TYPE_BYTES: Final = 1024

AS_THEY_ARE: Final = frozenset({b"7bit", b"8bit", b"binary"})
"""Content-Transfer-Encodings that change no byte (RFC 2045 section 6.2)."""


def boundary_of(content_types: list[str]) -> bytes:
    """Return the boundary that a request's Content-Type names.

    Raises UnsupportedMedia if it is no form, BadRequest if the boundary is too long or
    there are two Content-Types.
    """
    if len(content_types) > 1:
        raise BadRequest("bad_multipart", "The request has two Content-Type headers.")
    if not content_types:
        raise UnsupportedMedia(
            "not_multipart", "The request has no Content-Type; send the photo as multipart/form-data."
        )
    if len(content_types[0]) > MAX_CONTENT_TYPE_BYTES:
        raise BadRequest("bad_multipart", f"The Content-Type is longer than {MAX_CONTENT_TYPE_BYTES} characters.")
    media_type, options = parameters(content_types[0].encode("latin-1"))
    if media_type != b"multipart/form-data":
        raise UnsupportedMedia("not_multipart")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise UnsupportedMedia("not_multipart", "The Content-Type multipart/form-data has no boundary parameter.")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise BadRequest("bad_multipart", f"The multipart boundary is longer than {MAX_BOUNDARY_BYTES} characters.")
    return boundary


class Form:
    """The parts of a body that is being parsed."""

    def __init__(self, boundary: bytes, *, image_max_bytes: int, fingerprint: bool) -> None:
        self.parts: dict[str, Part] = {}
        self._image_max_bytes = image_max_bytes
        self._fingerprint = fingerprint
        self._part: Part | None = None
        self._seen = 0
        self._parser = MultipartParser(boundary)

    def __repr__(self) -> str:
        return f"<Form parts={sorted(self.parts)} {self._parser!r}>"

    @property
    def size(self) -> int:
        """Return how many bytes the parts hold, in memory and in files."""
        return sum([part.size for part in self.parts.values()])

    def feed(self, chunk: bytes) -> None:
        """Parse the next chunk.

        Raises BadRequest, TooLarge, UnsupportedMedia or Unprocessable for the first
        thing that is wrong.
        """
        for event in self._parser.feed(chunk):
            if isinstance(event, bytes):
                if self._part is not None:
                    self._append(self._part, event)
            elif isinstance(event, PartEnd):
                self._end_part()
            else:
                self._begin_part(event)

    def end(self) -> None:
        """Note that nothing follows. Raises BadRequest if something is missing."""
        if not self._parser.found:
            raise BadRequest("bad_multipart", NO_BOUNDARY)
        if not self._parser.ended:
            raise BadRequest("bad_multipart", "The multipart body ended before its last boundary.")

    def _begin_part(self, headers: Headers) -> None:
        self._seen += 1
        if self._seen > MAX_PARTS:
            raise BadRequest("bad_multipart", f"The body has more than {MAX_PARTS} parts.")
        name = _name_of(headers)
        if name not in NAMES:
            return
        if name in self.parts:
            raise BadRequest("bad_multipart", f"There is more than one part named {name}.")
        if any(each == b"content-transfer-encoding" and value.lower() not in AS_THEY_ARE for each, value in headers):
            raise UnsupportedMedia("unsupported_encoding", "A part has a Content-Transfer-Encoding; send it as binary.")
        self._part = self.parts[name] = Part(name, fingerprint=self._fingerprint)

    def _append(self, part: Part, data: bytes) -> None:
        if part.name == "params":
            if part.size + len(data) > MAX_PARAMS_BYTES:
                raise Unprocessable("bad_params")
        elif part.size + len(data) > self._image_max_bytes:
            raise TooLarge
        part.append(data)

    def _end_part(self) -> None:
        if self._part is not None and self._part.size and not self._part.checked:
            self._part.check()
        self._part = None


def _name_of(headers: Headers) -> str:
    """Return the field's name. Raises BadRequest without one (RFC 7578 section 4.2)."""
    dispositions = [value for name, value in headers if name == b"content-disposition"]
    if len(dispositions) > 1:
        raise BadRequest("bad_multipart", "A part has two Content-Disposition headers.")
    kind, options = parameters(dispositions[0]) if dispositions else (b"", {})
    name = options.get(b"name")
    if kind != b"form-data" or name is None:
        raise BadRequest("bad_multipart", "A part has no name.")
    return name.decode("utf-8", "replace")
