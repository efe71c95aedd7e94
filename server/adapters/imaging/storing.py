"""The picture as a file that is small enough to be stored.

A picture that its own format can't hold within the bound (a PNG of noise, film grain
that a decoder has painted) is stored with less quality or in another format: JPEG, or
WebP if it is transparent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from server.domain.images import CleanImage, ImageFormat
from tryon.protocol.errors import Unprocessable

QUALITIES: Final = (90, 75, 50, 25, 10)
"""Qualities of JPEG and WebP, tried from the left; nearly all photos fit at once."""
_HALF: Final = QUALITIES.index(50)
SHARES: Final = (1.0, 0.62, 0.42, 0.26, 0.14)
"""Size of a noisy picture at these qualities, as a share of the first."""
PNG_COMPRESS_LEVEL: Final = 1
"""Level 6 takes 1.7 times the CPU of level 1 for a file 10 % smaller."""
_HALF_WIDTH: Final = 1
_KNOWN: Final = (0, 1, 2)
_FAST: Final = {"quality": QUALITIES[0], "method": 0}
_CHEAPER: Final[dict[str, dict[str, int]]] = {"JPEG": {"subsampling": 2}, "WEBP": {"method": 0, "alpha_quality": 0}}
"""Options of all qualities but the first."""
WEBP_PIXELS: Final = 16_000_000
"""Pixels above which WebP is too expensive: 0.9 to 2.4 s of CPU at 40 MP, after which
its first partition has often overflowed.

An opaque picture is a JPEG then (0.1 s); a transparent one begins at quality 50.
"""

FINEST_TABLES: Final = (369, 558)
"""Sums of the quantization tables (luminance, colour) of quality 95.

A JPEG keeps its own tables, with which it loses next to nothing, but none finer.
"""
FINEST_QUALITY: Final = 95
FOREIGN_QUALITY: Final = 93
"""Quality of a JPEG that was no JPEG: its grain has been smoothed once already."""


@dataclass(frozen=True, slots=True)
class JpegCoding:
    """How a JPEG was coded: Pillow's number of its subsampling, quantization tables."""

    subsampling: int
    tables: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, image: JpegImageFile) -> JpegCoding:
        """Return how an opened file is coded."""
        subsampling = get_sampling(image)
        if subsampling not in _KNOWN:  # grey and inks, or another of three colours: 4:4:4 loses none of it
            subsampling = 0 if image.layers == 3 else 2
        return cls(subsampling, tuple(tuple(table) for _, table in sorted(image.quantization.items())))

    def transposed(self) -> JpegCoding:
        """Return what suits the picture turned on its side.

        4:2:2 would become 4:4:0, which no encoder here has: then 4:4:4.
        """
        turned = tuple(tuple(table[at % 8 * 8 + at // 8] for at in range(64)) for table in self.tables)
        return JpegCoding(0 if self.subsampling == _HALF_WIDTH else self.subsampling, turned)


def _options(coding: JpegCoding) -> dict[str, Any]:
    """Return the options with which Pillow codes a picture as that JPEG was coded."""
    found: dict[str, Any] = {"subsampling": coding.subsampling}
    luminance, *colour = coding.tables or ((0,),)
    finest = sum(luminance) < FINEST_TABLES[0] or any(sum(table) < FINEST_TABLES[1] for table in colour)
    if finest or max(map(max, coding.tables)) > 255:
        return found | {"quality": FINEST_QUALITY}
    return found | {"qtables": coding.tables}


class _TooLarge(Exception):
    """The file has grown beyond the bound; no more of it need be made."""


class _Bounded(io.BytesIO):
    """A file that counts on beyond ``most`` bytes, but holds no more.

    Raises _TooLarge then if ``stops``.
    """

    def __init__(self, most: int, *, stops: bool) -> None:
        super().__init__()
        self._most = most
        self._stops = stops
        self.count = 0

    def write(self, data: Any) -> int:
        size = len(data)
        self.count += size
        if self.count <= self._most:
            return super().write(data)
        if self._stops:
            raise _TooLarge
        return size


def store(picture: Image.Image, format: ImageFormat, *, coding: JpegCoding | None, max_bytes: int) -> CleanImage:
    """Return the picture as a file of ``max_bytes`` at most, in ``format`` if it fits.

    ``coding`` is that of a JPEG, which it keeps; others get 4:2:0. Raises
    Unprocessable, ``image_too_large``, if nothing fits.
    """
    alpha = picture.mode == "RGBA"
    if format is ImageFormat.PNG:
        out = _Bounded(max_bytes, stops=True)
        try:
            picture.save(out, "PNG", compress_level=PNG_COMPRESS_LEVEL)
        except _TooLarge:
            pass
        else:
            return CleanImage(out.getvalue(), ImageFormat.PNG, *picture.size)
    large = picture.width * picture.height > WEBP_PIXELS
    webp = alpha or (format is ImageFormat.WEBP and not large)
    if webp and (data := _lossy(picture, "WEBP", max_bytes, _FAST, first=_HALF if large else 0)):
        return CleanImage(data, ImageFormat.WEBP, *picture.size)
    if not alpha:
        options = _options(coding) if coding else {"quality": FOREIGN_QUALITY, "subsampling": 2}
        if data := _lossy(picture, "JPEG", max_bytes, options):
            return CleanImage(data, ImageFormat.JPEG, *picture.size)
    raise Unprocessable("image_too_large", f"The picture can't be stored in {max_bytes:,} bytes; send a smaller one.")


def _lossy(
    picture: Image.Image, format: str, max_bytes: int, options: dict[str, Any], *, first: int = 0
) -> bytes | None:
    """Return the file in the best quality that fits; None if none does.

    ``first``: the quality to begin with; ``options`` are those of the very best. A file
    that is too large says which quality to try next: two or three are enough.
    """
    at = first
    while at < len(QUALITIES):
        out = _Bounded(max_bytes, stops=False)
        try:
            picture.save(out, format, **({"quality": QUALITIES[at]} | _CHEAPER[format] if at else options))
        except ValueError:  # libwebp's first partition holds 512 KiB: a busy picture of 16 MP may need more
            if picture.mode != "RGBA":
                return None
            at = max(at + 1, _HALF)  # the next would need it as well
            continue
        if out.count <= max_bytes:
            return out.getvalue()
        share = SHARES[at] * max_bytes / out.count
        last = len(QUALITIES) - 1
        at = next((n for n in range(at + 1, last) if SHARES[n] <= share), max(at + 1, last))
    return None
