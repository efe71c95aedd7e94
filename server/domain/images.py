"""What counts as an acceptable image, decided from its first bytes and its header's
size, never from a name.

``web.uploads`` sniffs a part as soon as its first :data:`MAGIC_BYTES` are there;
``adapters.imaging`` judges the size before it decodes, and stores what it cleaned as
one of three formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from tryon.protocol.errors import Unprocessable

MAGIC_BYTES: Final = 32
"""How many first bytes :func:`sniff` wants to see.

A shorter file is judged by what there is.
"""


class ImageFormat(Enum):
    """A format that may be uploaded. The value is the name Pillow knows it by."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WEBP"
    AVIF = "AVIF"
    HEIC = "HEIF"

    @property
    def extension(self) -> str:
        """Of the stored file, without a dot.

        Raises ``KeyError`` for a format that is never stored.
        """
        return STORED[self][0]

    @property
    def media_type(self) -> str:
        """Of the stored file. Raises ``KeyError`` for a format that is never stored."""
        return STORED[self][1]

    def stored_as(self, *, alpha: bool) -> ImageFormat:
        """The format in which it is kept: what every browser shows and every model
        reads.
        """
        if self in STORED:
            return self
        return ImageFormat.PNG if alpha else ImageFormat.JPEG


STORED: Final[dict[ImageFormat, tuple[str, str]]] = {
    ImageFormat.JPEG: ("jpg", "image/jpeg"),
    ImageFormat.PNG: ("png", "image/png"),
    ImageFormat.WEBP: ("webp", "image/webp"),
}
"""Extension and media type of each format that is stored."""

MEDIA_TYPES: Final[dict[str, str]] = dict(STORED.values())
"""Media type by extension, for whoever serves a stored file."""

_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})


def sniff(head: bytes) -> ImageFormat | None:
    """The format that the first bytes announce; None for anything else.

    JPEG: ITU-T T.81 B.1 (SOI and a marker). PNG: W3C PNG 5.2. WebP: RFC 9649 section
    2.4. HEIC and AVIF: the major brand of the ``ftyp`` box, or a compatible one if the
    major says only "some HEIF image" (ISO/IEC 23008-12 section 10, AVIF section 6.3).
    """
    if head.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ImageFormat.PNG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ImageFormat.WEBP
    if head[4:8] == b"ftyp":
        box = head[: min(int.from_bytes(head[:4]), MAGIC_BYTES)]
        brands = [box[8:12], *(box[at : at + 4] for at in range(16, len(box), 4))]
        for brand in brands if brands[0] in (b"mif1", b"msf1") else brands[:1]:
            if brand in _AVIF_BRANDS:
                return ImageFormat.AVIF
            if brand in _HEIC_BRANDS:
                return ImageFormat.HEIC
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large an image may be.

    ``max_bytes`` is the uploaded file's, sides and pixels are the decoded picture's.
    """

    max_bytes: int = 10 * 2**20
    min_side: int = 64
    max_side: int = 8192
    max_pixels: int = 40_000_000

    @property
    def max_result_bytes(self) -> int:
        """Of the stored file: a PNG of noise needs little more than its pixels."""
        return 5 * self.max_pixels + 2**20


def judge(width: int, height: int, limits: Limits) -> None:
    """Refuse a size outside the limits:

    ``too_many_pixels``, ``image_too_large`` or ``image_too_small``, in this order.
    """
    if width * height > limits.max_pixels:
        raise Unprocessable(
            "too_many_pixels", f"The image has {width} x {height} pixels; at most {limits.max_pixels:,} are allowed."
        )
    if max(width, height) > limits.max_side:
        raise Unprocessable(
            "image_too_large", f"The image is {width} x {height}; a side may have at most {limits.max_side} pixels."
        )
    if min(width, height) < limits.min_side:
        raise Unprocessable(
            "image_too_small", f"The image is {width} x {height}; a side needs at least {limits.min_side} pixels."
        )


@dataclass(frozen=True, slots=True)
class CleanImage:
    """A file that is fit to be stored and served."""

    data: bytes
    format: ImageFormat
    width: int
    height: int

    @property
    def extension(self) -> str:
        """Without a dot."""
        return self.format.extension

    def __repr__(self) -> str:
        return f"<CleanImage {self.format.name} {self.width}x{self.height} {len(self.data)} bytes>"
