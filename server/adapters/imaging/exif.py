"""Orientation that EXIF gives to a picture (EXIF 2.32, tag 0x0112), and nothing else.

Only the tag of the first directory counts. What XMP or a text chunk says is ignored, as
browsers do.
"""

from __future__ import annotations

from typing import Final, Literal

UPRIGHT: Final = 1
FIRST_ON_ITS_SIDE: Final = 5
"""The first EXIF orientation that exchanges width and height."""

_TAG: Final = 0x0112
_SHORT: Final = 3


def orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8; 1 if ``exif`` is broken or says nothing."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if tiff[:4] == b"II*\0" else "big"
    if order == "big" and tiff[:4] != b"MM\0*":
        return UPRIGHT
    directory = int.from_bytes(tiff[4:8], order)
    entries = int.from_bytes(tiff[directory : directory + 2], order)
    for at in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind = (int.from_bytes(tiff[at + part : at + part + 2], order) for part in (0, 2))
        count, value = int.from_bytes(tiff[at + 4 : at + 8], order), int.from_bytes(tiff[at + 8 : at + 10], order)
        if tag == _TAG:
            return value if (kind, count) == (_SHORT, 1) and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
