"""Photos like a phone's, drawn with Pillow: for ``tryon sample-photos``.

Each shows a person before a wall, and four coloured corners that tell whether it is
upright (:data:`CORNERS`). What phones add is there: an EXIF orientation, GPS, XMP, a
comment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

CORNERS: Final[Mapping[str, tuple[int, int, int]]] = {
    "top_left": (220, 30, 30),
    "top_right": (30, 170, 60),
    "bottom_left": (40, 60, 220),
    "bottom_right": (240, 210, 40),
}
"""Colours in the corners of the upright picture, each a tenth of the shorter side."""

SECRETS: Final = (b"Evil Camera 3000", b"taken at home, Elm Street 5", b"XMP-of-Elm-Street", b"serial-4711")
"""Texts in the metadata of the photos; no stored or served file may contain them."""

SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "photo.jpg": (900, 1200),  # EXIF orientation 6 (held upright), GPS, XMP, a comment
    "garment.png": (600, 600),  # alpha, a text chunk
    "photo.webp": (800, 1000),  # EXIF and XMP
    "large.jpg": (3000, 4000),  # 12 megapixels, EXIF orientation 8
}
"""File name -> upright size (width, height)."""


def person(size: tuple[int, int]) -> Image.Image:
    """Draw an upright person before a wall, with gradients, shapes and noise (RGB)."""
    width, height = size
    wall = Image.linear_gradient("L").resize(size)
    light = Image.radial_gradient("L").resize(size)
    grain = Image.effect_noise((max(1, width // 4), max(1, height // 4)), 40).resize(size)
    picture = Image.merge("RGB", (light, wall, grain))
    draw = ImageDraw.Draw(picture)
    middle, unit = width / 2, min(size) / 10
    draw.rounded_rectangle((middle - 2.2 * unit, 4.4 * unit, middle + 2.2 * unit, height), unit, fill=(70, 90, 150))
    draw.ellipse((middle - 1.3 * unit, 1.4 * unit, middle + 1.3 * unit, 4.4 * unit), fill=(224, 178, 150))
    draw.pieslice((middle - 1.4 * unit, 1.2 * unit, middle + 1.4 * unit, 4.0 * unit), 180, 360, fill=(60, 40, 30))
    for side in (-0.5, 0.5):
        draw.ellipse(
            (middle + (side - 0.15) * unit, 2.7 * unit, middle + (side + 0.15) * unit, 3.0 * unit), fill=(20, 20, 30)
        )
    draw.arc(
        (middle - 0.6 * unit, 3.0 * unit, middle + 0.6 * unit, 3.9 * unit),
        20,
        160,
        fill=(150, 40, 50),
        width=max(2, int(unit / 12)),
    )
    for name, colour in CORNERS.items():
        left = 0 if name.endswith("left") else width - unit
        top = 0 if name.startswith("top") else height - unit
        draw.rectangle((left, top, left + unit, top + unit), fill=colour)
    return picture


def shirt(size: tuple[int, int]) -> Image.Image:
    """Draw a garment: transparent outside, half-transparent at the hem (RGBA)."""
    width, height = size
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    outline = [
        (0.3, 0.1),
        (0.42, 0.16),
        (0.58, 0.16),
        (0.7, 0.1),
        (0.95, 0.35),
        (0.8, 0.48),
        (0.74, 0.42),
        (0.74, 0.8),
        (0.26, 0.8),
        (0.26, 0.42),
        (0.2, 0.48),
        (0.05, 0.35),
    ]
    draw.polygon([(x * width, y * height) for x, y in outline], fill=(200, 40, 90, 255))
    draw.rectangle((0.26 * width, 0.8 * height, 0.74 * width, 0.9 * height), fill=(200, 40, 90, 128))
    return picture


def metadata(orientation: int) -> Image.Exif:
    """Return what a phone notes: camera, orientation, place (Buckingham Palace)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = SECRETS[0].decode()
    exif[0x010E] = SECRETS[1].decode()
    exif.get_ifd(0x8769)[0xA431] = SECRETS[3].decode()
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", (IFDRational(51), IFDRational(30), IFDRational(5))
    gps[3], gps[4] = "W", (IFDRational(0), IFDRational(8), IFDRational(31))
    return exif


XMP: Final = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><note>XMP-of-Elm-Street</note></x:xmpmeta>"


def make_samples(folder: Path) -> Path:
    """Write all of :data:`SIZES` into ``folder`` (made if missing), and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    # Orientation 6: the camera lay on its side, show it turned by 90 degrees clockwise;
    # 8 is the other way round.
    person(SIZES["photo.jpg"]).transpose(Image.Transpose.ROTATE_90).save(
        folder / "photo.jpg", quality=88, exif=metadata(6), xmp=XMP, comment=SECRETS[1]
    )
    person(SIZES["large.jpg"]).transpose(Image.Transpose.ROTATE_270).save(
        folder / "large.jpg", quality=85, exif=metadata(8), xmp=XMP, comment=SECRETS[1]
    )
    person(SIZES["photo.webp"]).save(folder / "photo.webp", quality=80, exif=metadata(1), xmp=XMP)
    text = PngInfo()
    text.add_text("Comment", SECRETS[1].decode())
    shirt(SIZES["garment.png"]).save(folder / "garment.png", pnginfo=text, exif=metadata(1))
    return folder
