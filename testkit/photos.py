"""Pictures that cost what photos cost: smooth colours and some grain.

Photos with all that a phone adds are those of `tryon sample-photos`
(:mod:`server.adapters.imaging.sample_photos`).
"""

from __future__ import annotations

import io
from functools import cache

from PIL import Image


@cache
def photo(width: int = 96, height: int = 128, quality: int = 85, grain: float = 0.3, orientation: int = 1) -> bytes:
    """Return a JPEG with the place where it was taken.

    ``orientation`` is noted as a phone does it (EXIF tag 0x0112).
    """
    noise = Image.effect_noise((width, height), 24).convert("L")
    ramp = Image.linear_gradient("L").resize((width, height))
    green = Image.blend(ramp, noise, grain)
    picture = Image.merge("RGB", (ramp, green, ramp.transpose(Image.Transpose.ROTATE_180)))
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
        exif.get_ifd(0x8825)[1] = "N"
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, exif=exif)
    return out.getvalue()


def small() -> bytes:
    """Return about 196 kB, as a page uploads that makes photos smaller first."""
    return photo(1024, 768, 88, 0.43)


def large() -> bytes:
    """Return 12 megapixels, about 2.7 MB, lying on its side, as a phone uploads."""
    return photo(4000, 3000, 92, 0.3, 6)
