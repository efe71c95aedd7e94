"""The facts that a file states about its picture, apart from the compressed pixels.

The files of each format are read by a module of their own (:mod:`.jpeg_file`,
:mod:`.png_file`, :mod:`.heif_file`), which returns :class:`Parts`. The decoder of JPEG
and PNG then gets the segments that carry pixels and no others: what it never sees, it
cannot stumble over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from server.adapters.imaging.exif import UPRIGHT

CUT_OFF: Final = "The image is cut off: a part of the picture is missing. Please send the whole file."
MAX_PROFILE_BYTES: Final = 4 * 2**20
"""Largest ICC profile that is read; those of printers have 2 MB."""


class CodePoints(NamedTuple):
    """Colours as ITU-T H.273 numbers them (PNG cICP, AVIF and HEIF nclx).

    ``peak`` is the brightest light of a picture of high dynamic range, in cd/m².
    """

    primaries: int
    transfer: int
    peak: float = 1000.0


class Gamma(NamedTuple):
    """Colours as PNG's gAMA and cHRM give them.

    ``chromaticities`` are x and y of white, red, green and blue.
    """

    exponent: float
    chromaticities: tuple[float, ...]


SRGB: Final = CodePoints(1, 13)

Colours = bytes | CodePoints | Gamma
"""The meaning of the numbers of a picture: an ICC profile, or one of the above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A file taken apart.

    ``data`` is what the decoder gets. Of ``colours`` the first counts that is of use
    for the picture; without one it is sRGB. ``cut`` is true if the file ends before its
    format says so; its pixels may be complete all the same, and if not, be followed by
    ``rest``. ``grey`` is true if the file stores grey, whatever the decoder makes of
    it.
    """

    data: bytes
    colours: tuple[Colours, ...] = ()
    orientation: int = UPRIGHT
    cut: bool = False
    rest: bytes = b""
    grey: bool = False
