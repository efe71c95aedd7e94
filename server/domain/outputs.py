"""Rules for the files that a processor returns: types, bounds, and what is kept.

``adapters.imaging`` verifies each in a child process before ``sessions.claims`` stores
it; :class:`VerifiedOutput` is what is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from server.domain.images import Limits

MAX_OUTPUT_BYTES: Final = 64 * 2**20
"""Bytes of one output, at most."""
MAX_PREVIEW_BYTES: Final = 4 * 2**20
"""Bytes of an intermediate picture, at most."""
MARK_BYTES: Final = 4096
"""Bytes that a mark of provenance may add to a file, at most; it has about 600."""
MAX_SIDE: Final = 16_384
"""Pixels of an output's longer side, at most: WebP's own limit."""

EXTENSIONS: Final[dict[str, str]] = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/webm": "webm",
}
"""Extension of the stored file, by the type of an output."""


def output_limits(max_pixels: int) -> Limits:
    """Return the bounds of an output: no side is too short, and few files too large."""
    return Limits(max_bytes=MAX_OUTPUT_BYTES + MARK_BYTES, min_side=1, max_side=MAX_SIDE, max_pixels=max_pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedOutput:
    """A picture or film that is what it claims to be, without private metadata."""

    data: bytes = field(repr=False)
    type: str
    """One of :data:`EXTENSIONS`."""
    width: int
    """Pixels, upright."""
    height: int
    sha256: str
    """SHA-256 of ``data``: 64 hex digits."""

    @property
    def extension(self) -> str:
        """Return the extension of the stored file, without a dot."""
        return EXTENSIONS[self.type]
