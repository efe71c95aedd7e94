"""Rules for accepted images: by their first bytes and their size, never by a name.

``web.api.uploads`` sniffs a part as soon as its first :data:`MAGIC_BYTES` are there;
``adapters.imaging`` judges the size before it decodes, and stores the cleaned image in
one of three formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tryon.protocol.errors import Unprocessable

MAGIC_BYTES: Final = 32
"""First bytes that :func:`sniff` needs; a shorter file is judged by all its bytes."""


class ImageFormat(Enum):
    """A format that may be uploaded; the value is Pillow's name of it."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WEBP"
    AVIF = "AVIF"
    HEIC = "HEIF"

    @property
    def extension(self) -> str:
        """Return the extension of the stored file, without a dot.

        Raises ``KeyError`` for a format that is never stored.
        """
        return STORED[self][0]

    @property
    def media_type(self) -> str:
        """Return the media type of the stored file.

        Raises ``KeyError`` for a format that is never stored.
        """
        return STORED[self][1]

    def stored_as(self, *, alpha: bool) -> ImageFormat:
        """Return the format to store it in, which all browsers and models read."""
        if self in STORED:
            return self
        return ImageFormat.PNG if alpha else ImageFormat.JPEG


STORED: Final[dict[ImageFormat, tuple[str, str]]] = {
    ImageFormat.JPEG: ("jpg", "image/jpeg"),
    ImageFormat.PNG: ("png", "image/png"),
    ImageFormat.WEBP: ("webp", "image/webp"),
}
"""Extension and media type of each format that is stored."""

UPLOADED: Final[dict[str, ImageFormat]] = {
    "image/jpeg": ImageFormat.JPEG,
    "image/png": ImageFormat.PNG,
    "image/webp": ImageFormat.WEBP,
    "image/avif": ImageFormat.AVIF,
    "image/heic": ImageFormat.HEIC,
}
"""The format of an uploaded file, by its media type."""

MEDIA_TYPES: Final[dict[str, str]] = dict(STORED.values())
"""The media type of a stored file, by its extension."""

_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})


def sniff(head: bytes) -> ImageFormat | None:
    """Return the format that the first bytes announce; None for anything else.

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


_NAMES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "PSD"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (4, b"ftypcrx ", "CR3"),
)
"""Offset, bytes and name of formats that are not taken, but told by their name."""


def refused_for_role(known: ImageFormat, formats: Sequence[str]) -> str | None:
    """Return what to say of a format that a role does not take; None if it does.

    ``formats``: the media types that it takes; empty: all.
    """
    taken = [UPLOADED[each].name for each in formats]
    if not taken or known.name in taken:
        return None
    return f"{known.name} is not taken here; export as {' or '.join(taken)}."


def refusal(head: bytes) -> str | None:
    """Return what to say of a file that is not accepted; None for no known picture.

    A format that :func:`sniff` knows is refused where its decoder is not installed.
    """
    known = sniff(head)
    name = known.name if known else next((name for at, magic, name in _NAMES if head[at:].startswith(magic)), None)
    return f"{name} is not supported here; export as JPEG." if name else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest and smallest images that are accepted.

    ``max_bytes`` counts the uploaded file; sides and pixels are those of the decoded
    picture.
    """

    max_bytes: int = 10 * 2**20
    min_side: int = 64
    max_side: int = 8192
    max_pixels: int = 40_000_000

    @property
    def max_result_bytes(self) -> int:
        """Return the most bytes of a stored file: those of an uploaded one."""
        return self.max_bytes


def judge_pixels(width: int, height: int, most: int) -> None:
    """Refuse more pixels than these. Raises Unprocessable: ``too_many_pixels``."""
    if width * height > most:
        raise Unprocessable(
            "too_many_pixels", f"The image has {width} x {height} pixels; at most {most:,} are allowed."
        )


def judge(width: int, height: int, limits: Limits) -> None:
    """Refuse a size outside the limits.

    Raises Unprocessable: ``too_many_pixels``, ``image_too_large`` or
    ``image_too_small``, checked in this order.
    """
    judge_pixels(width, height, limits.max_pixels)
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
    """An image without metadata, ready to be stored and served."""

    data: bytes
    format: ImageFormat
    width: int
    height: int

    @property
    def extension(self) -> str:
        """Return the extension of the stored file, without a dot."""
        return self.format.extension

    def __repr__(self) -> str:
        return f"<CleanImage {self.format.name} {self.width}x{self.height} {len(self.data)} bytes>"
