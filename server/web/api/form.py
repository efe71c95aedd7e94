"""The form of an upload: chunks in, parts out, every cap on the way.

It calls plain functions and never waits; :mod:`server.web.api.uploads` moves large
parts to files between two chunks. :mod:`server.web.api.multipart` knows the framing.
"""

from __future__ import annotations

from typing import Final

from server.config.webhook_url import MAX_URL_LENGTH
from server.sessions.roles import Roles
from server.web.api.multipart import (
    MAX_BOUNDARY_BYTES,
    NO_BOUNDARY,
    Headers,
    MultipartParser,
    PartEnd,
    parameters,
)
from server.web.api.params import MAX_PARAMS_BYTES
from server.web.api.parts import Part
from tryon.processor.interface import Role
from tryon.protocol.errors import BadRequest, NotFound, TooLarge, Unprocessable, UnsupportedMedia

PARAMS: Final = "params"
"""Name of the part with the parameters."""
ORIGINAL: Final = "from"
"""Name of the part with the id of a session whose photos are copied."""
WEBHOOK: Final = "webhook"
"""Name of the part with the address that is called when the session ends."""

TEXT_BYTES: Final = {PARAMS: MAX_PARAMS_BYTES, ORIGINAL: 64, WEBHOOK: MAX_URL_LENGTH}
"""Maximum bytes of each part that holds a text."""

MAX_PARTS: Final = 16

MAX_SHOWN: Final = 100
"""Characters of a part's name that a refusal repeats."""

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
    """The parts of a body that is being parsed.

    ``roles``: the parts that hold images. Other fields are ignored; other files, and
    more of a role than it takes, are refused.
    """

    def __init__(self, boundary: bytes, *, roles: Roles, image_max_bytes: int, fingerprint: bool) -> None:
        self.images: list[Part] = []
        self.texts: dict[str, Part] = {}
        self._roles = roles
        self._image_max_bytes = image_max_bytes
        self._fingerprint = fingerprint
        self._part: Part | None = None
        self._seen = 0
        self._parser = MultipartParser(boundary)

    def __repr__(self) -> str:
        return f"<Form parts={[part.name for part in self.parts]} {self._parser!r}>"

    @property
    def parts(self) -> list[Part]:
        """Return all parts that are read: the images in their order, then the texts."""
        return [*self.images, *self.texts.values()] if self.texts else self.images

    @property
    def size(self) -> int:
        """Return how many bytes the parts hold, in memory and in files."""
        return sum([part.size for part in self.parts])

    def inputs(self) -> list[Part]:
        """Return the parts with an image, by role; those of one role in their order.

        Raises Unprocessable if a required one is missing or empty, and is not to be
        copied from another session.
        """
        found = []
        copied = bool(self.text(ORIGINAL))
        for role in self._roles.all:
            own = [part for part in self.images if part.role is role]
            filled = [part for part in own if part.size]  # a browser sends an unfilled field as an empty part
            if role.required and not filled and not copied:
                name = own[0].name if own else role.name
                raise Unprocessable("missing_image", f"The part named {name} is missing or empty.", part=name)
            found += filled
        return found

    def text(self, name: str) -> bytes:
        """Return the content of a part that holds a text; empty without one."""
        part = self.texts.get(name)
        return part.peek() if part is not None else b""

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
        name, has_file = _name_of(headers)
        is_text = name in TEXT_BYTES
        role = None if is_text else self._roles.of_part(name)
        if role is None and not is_text:
            if has_file:
                shown = name[:MAX_SHOWN]
                raise Unprocessable("unknown_input", f"The try-on takes no file named {shown}.", part=shown)
            return
        if name in self.texts:
            raise BadRequest("bad_multipart", f"There is more than one part named {name}.")
        if any(each == b"content-transfer-encoding" and value.lower() not in AS_THEY_ARE for each, value in headers):
            raise UnsupportedMedia("unsupported_encoding", "A part has a Content-Transfer-Encoding; send it as binary.")
        self._part = part = Part(name, role, fingerprint=self._fingerprint)
        if role is None:
            self.texts[name] = part
        else:
            self.images.append(part)

    def _append(self, part: Part, data: bytes) -> None:
        if part.role is None:
            if part.size + len(data) > TEXT_BYTES[part.name]:
                if part.name == PARAMS:
                    raise Unprocessable("bad_params", part=PARAMS, pointer="")
                raise NotFound if part.name == ORIGINAL else Unprocessable("bad_webhook", part=WEBHOOK)
        else:
            if not part.size:
                self._admit(part, part.role)
            if part.size + len(data) > min(self._image_max_bytes, part.role.max_bytes or self._image_max_bytes):
                raise TooLarge(part=part.name)
        part.append(data)

    def _admit(self, part: Part, role: Role) -> None:
        """Raise Unprocessable for an image too many, and for one under two names."""
        others = [each for each in self.images if each.role is role and each.size]
        for each in others:
            if each.name != part.name:
                raise Unprocessable(
                    "unknown_input", f"The parts {each.name} and {part.name} are the same; send one.", part=part.name
                )
        if len(others) >= role.count:
            raise Unprocessable(
                "unknown_input", f"There are more than {role.count} parts named {part.name}.", part=part.name
            )

    def _end_part(self) -> None:
        if self._part is not None and self._part.size and not self._part.checked:
            self._part.check()
        self._part = None


def _name_of(headers: Headers) -> tuple[str, bool]:
    """Return the field's name, and whether it names a file.

    An unfilled field for a file has an empty file name. Raises BadRequest without a
    name (RFC 7578 section 4.2).
    """
    dispositions = [value for name, value in headers if name == b"content-disposition"]
    if len(dispositions) > 1:
        raise BadRequest("bad_multipart", "A part has two Content-Disposition headers.")
    kind, options = parameters(dispositions[0]) if dispositions else (b"", {})
    name = options.get(b"name")
    if kind != b"form-data" or name is None:
        raise BadRequest("bad_multipart", "A part has no name.")
    return name.decode("utf-8", "replace"), bool(options.get(b"filename") or options.get(b"filename*"))
