"""Every picture becomes RGB, or RGBA, in sRGB, as browsers show it.

Profiles are converted by Little CMS; the numbers of cICP, nclx, gAMA and cHRM become a
profile first, so that there is one way. Numbers that mean nothing, and profiles that
are broken or made for other pixels, are ignored.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from PIL import Image, ImageCms

from server.adapters.imaging.parts import SRGB, CodePoints, Colours, Gamma
from server.adapters.imaging.profiles import SRGB_CURVE, code_points, is_srgb, matrix_profile
from server.adapters.imaging.tone_mapping import HLG, PQ, to_sdr

PRIMARIES: Final[Mapping[int, tuple[float, ...]]] = {
    1: (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06),
    4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.3127, 0.329, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (0.3127, 0.329, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (0.3127, 0.329, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    8: (0.31, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (0.3127, 0.329, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}
"""Chromaticities of white, red, green and blue (ITU-T H.273 table 2)."""

CURVES: Final[Mapping[int, tuple[float, ...]]] = {
    **dict.fromkeys((1, 6, 11, 14, 15), (2.4, 1.0, 0.0, 0.0, 0.0)),  # as a screen shows it (ITU-R BT.1886)
    4: (2.2, 1.0, 0.0, 0.0, 0.0),
    5: (2.8, 1.0, 0.0, 0.0, 0.0),
    7: (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0913),
    8: (1.0, 1.0, 0.0, 0.0, 0.0),
    13: SRGB_CURVE,
    17: (2.6, (52.37 / 48) ** (1 / 2.6), 0.0, 0.0, 0.0),
}
"""Curves from numbers to light (ITU-T H.273 table 3), but for PQ and HLG."""

_SPACES: Final = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK"}
_SRGB: Final = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image, colours: Sequence[Colours], *, grey: bool = False) -> Image.Image:
    """Return the picture as RGB, or as RGBA if any transparency is possible, in sRGB.

    Of ``colours`` the first counts that is of use. ``grey``: every pixel is grey,
    though the picture may have come as RGBA.
    """
    image = _simple(image, grey=grey)
    for meaning in colours:
        found = _from_profile(image, meaning) if isinstance(meaning, bytes) else _from_numbers(_rgb(image), meaning)
        if found is not None:
            return _rgb(found)
    return _rgb(image)


def _simple(image: Image.Image, *, grey: bool) -> Image.Image:
    """Return the picture in one of the modes of ``_SPACES``."""
    alpha = image.has_transparency_data
    if image.mode == "I;16":  # grey PNG; Pillow's own conversion clips at 255 instead of scaling
        transparent = image.info.get("transparency") if alpha else None
        image = image.point(lambda value: value * (1 / 256)).convert("L")
        if transparent is None:
            return image
        mask = image.point([0 if level == transparent else 255 for level in range(256)])
        return Image.merge("LA", (image, mask))
    if alpha and image.mode != "RGBA" and image.mode != "LA":
        image = image.convert("RGBA")
    if grey and image.mode == "RGBA":
        return Image.merge("LA", (image.getchannel("R"), image.getchannel("A")))
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in _SPACES else image.convert("RGB")


def _rgb(image: Image.Image) -> Image.Image:
    wanted = "RGBA" if image.mode in ("LA", "RGBA") else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Return the picture in sRGB, None if the profile is broken.

    It is unchanged if the profile was made for another kind of pixel.
    """
    try:
        space = profile[16:20]
        if space == b"RGB " and image.mode in ("L", "LA"):
            image = _rgb(image)
        if space != _SPACES[image.mode]:
            return image if profile[36:40] == b"acsp" else None
        if space == b"RGB ":
            if is_srgb(profile):
                return image
            if numbers := code_points(profile):
                return _from_numbers(image, numbers)
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "LA":
            grey, alpha = image.split()
            return Image.merge("RGBA", (*_transformed(grey, embedded).split(), alpha))
        return _transformed(image, embedded)
    except Exception:  # PyCMSError, OSError, ValueError, struct.error: Little CMS and we on foreign bytes
        return None


def _transformed(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    return ImageCms.buildTransform(profile, _SRGB, image.mode, mode).apply(image)


def _from_numbers(image: Image.Image, colours: CodePoints | Gamma) -> Image.Image | None:
    """Return an RGB or RGBA picture in sRGB; None if the numbers mean nothing."""
    if colours == SRGB:
        return image
    if isinstance(colours, Gamma):
        chromaticities: tuple[float, ...] | None = colours.chromaticities
        curve: tuple[float, ...] | None = (colours.exponent, 1.0, 0.0, 0.0, 0.0)
    else:
        chromaticities, curve = PRIMARIES.get(colours.primaries), CURVES.get(colours.transfer)
        if chromaticities is not None and colours.transfer in (PQ, HLG):
            return to_sdr(image, colours.transfer, chromaticities, colours.peak)
    if chromaticities is None or curve is None:
        return None
    try:
        profile = matrix_profile(chromaticities, curve)
    except (ValueError, ZeroDivisionError, struct.error):  # primaries that no light has
        return None
    return _from_profile(image, profile)
