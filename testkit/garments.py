"""Pictures of upper garments on a plain ground, drawn for the tests and the documents.

The same call draws the same picture, pixel for pixel, with one release of Pillow.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Point: TypeAlias = tuple[float, float]
Rgb: TypeAlias = tuple[int, int, int]
Paint: TypeAlias = Callable[[ImageDraw.ImageDraw], None]

SIZE: Final = (720, 800)
SCALE: Final = 2
"""Drawn larger, then reduced: Pillow draws without smooth edges."""
CENTRE: Final = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A garment to draw. Halves are points from neck to hem, x from the middle."""

    half: tuple[Point, ...]
    colour: Rgb
    trim: Rgb
    seam: tuple[Point, Point] | None
    """The armhole."""
    neck: float
    """How deep the front of the neckline is."""
    pattern: Paint | None = None
    ground: Rgb = (244, 244, 246)


def _stripes(colour: Rgb, first: int, step: int, thick: int) -> Paint:
    def paint(draw: ImageDraw.ImageDraw) -> None:
        for y in range(first, SIZE[1], step):
            draw.rectangle((0, y * SCALE, SIZE[0] * SCALE, (y + thick) * SCALE), fill=colour)

    return paint


def _checks(a: Rgb, b: Rgb) -> Paint:
    def paint(draw: ImageDraw.ImageDraw) -> None:
        for at in range(0, SIZE[1], 64):
            draw.rectangle((0, at * SCALE, SIZE[0] * SCALE, (at + 26) * SCALE), fill=a)
        for at in range(0, SIZE[0], 64):
            draw.rectangle((at * SCALE, 0, (at + 10) * SCALE, SIZE[1] * SCALE), fill=b)

    return paint


def _sun(colour: Rgb, inner: Rgb) -> Paint:
    def paint(draw: ImageDraw.ImageDraw) -> None:
        for radius, fill in ((92, colour), (66, inner), (40, colour)):
            box = (CENTRE - radius, 330 - radius, CENTRE + radius, 330 + radius)
            draw.ellipse(tuple(v * SCALE for v in box), fill=fill)

    return paint


_TEE: Final = ((96, 78), (200, 112), (322, 262), (236, 330), (182, 268), (176, 480), (184, 716))
_LONG: Final = ((92, 78), (192, 110), (266, 300), (330, 636), (246, 660), (184, 290), (176, 480), (180, 700))
_TANK: Final = ((92, 84), (140, 88), (142, 190), (186, 292), (172, 480), (184, 716))
_BLOUSE: Final = ((88, 78), (196, 108), (286, 232), (218, 300), (180, 262), (158, 460), (196, 700))

GARMENTS: Final[dict[str, Drawing]] = {
    "striped-tee": Drawing(
        half=_TEE, colour=(28, 112, 120), trim=(20, 84, 92), seam=((200, 112), (182, 268)), neck=66,
        pattern=_stripes((236, 228, 206), 200, 50, 20),
    ),
    "sun-tee": Drawing(
        half=_TEE, colour=(198, 62, 54), trim=(150, 40, 36), seam=((200, 112), (182, 268)), neck=66,
        pattern=_sun((250, 214, 96), (198, 62, 54)),
    ),
    "white-tee": Drawing(
        half=_TEE, colour=(240, 238, 232), trim=(206, 204, 200), seam=((200, 112), (182, 268)), neck=70,
        ground=(150, 160, 172),
    ),
    "navy-sweater": Drawing(
        half=_LONG, colour=(44, 58, 104), trim=(32, 42, 78), seam=((192, 110), (184, 290)), neck=52,
    ),
    "mustard-sweater": Drawing(
        half=_LONG, colour=(206, 152, 44), trim=(166, 118, 28), seam=((192, 110), (184, 290)), neck=56,
        pattern=_stripes((226, 184, 92), 250, 70, 18),
    ),
    "violet-top": Drawing(
        half=_TANK, colour=(118, 74, 160), trim=(90, 54, 126), seam=None, neck=120,
    ),
    "green-blouse": Drawing(
        half=_BLOUSE, colour=(70, 140, 88), trim=(50, 108, 66), seam=((196, 108), (180, 262)), neck=96,
    ),
    "checked-shirt": Drawing(
        half=_TEE, colour=(232, 226, 214), trim=(150, 60, 60), seam=((200, 112), (182, 268)), neck=80,
        pattern=_checks((206, 120, 110), (120, 60, 70)),
    ),
}  # fmt: skip
"""Garments by name."""


def draw_garment(name: str) -> Image.Image:
    """Return the picture of this garment."""
    drawing = GARMENTS[name]
    size = (SIZE[0] * SCALE, SIZE[1] * SCALE)
    mask = _mask(drawing, size)
    cloth = Image.new("RGB", size, drawing.colour)
    if drawing.pattern is not None:
        drawing.pattern(ImageDraw.Draw(cloth))
    cloth = ImageChops.overlay(cloth, Image.merge("RGB", [_folds(size, name)] * 3))
    _round(cloth, mask)
    draw = ImageDraw.Draw(cloth)
    _neckline(draw, drawing)
    for side in (-1, 1):
        if drawing.seam is not None:
            ends = [((CENTRE + side * x) * SCALE, y * SCALE) for x, y in drawing.seam]
            draw.line(ends, fill=drawing.trim, width=3)
    hem = drawing.half[-1][1] - 14
    draw.line((0, hem * SCALE, size[0], hem * SCALE), fill=drawing.trim, width=3)
    picture = Image.new("RGB", size, drawing.ground)
    shade = ImageChops.offset(mask, 8, 14).filter(ImageFilter.GaussianBlur(16)).point(lambda v: v * 40 // 255)
    picture.paste((60, 60, 70), (0, 0), shade)
    picture.paste(cloth, (0, 0), mask)
    return picture.resize(SIZE, Image.Resampling.LANCZOS)


def _mask(drawing: Drawing, size: tuple[int, int]) -> Image.Image:
    neck_x, neck_y = drawing.half[0]
    collar = [(CENTRE + u * neck_x, neck_y + 14 * (1 - u * u)) for u in (-0.7, -0.35, 0, 0.35, 0.7)]
    outline = [(CENTRE - x, y) for x, y in reversed(drawing.half)] + collar
    outline += [(CENTRE + x, y) for x, y in drawing.half]
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).polygon([(x * SCALE, y * SCALE) for x, y in outline], fill=255)
    # Rounds the corners.
    return (
        mask.filter(ImageFilter.GaussianBlur(9))
        .point(lambda v: 255 if v > 127 else 0)
        .filter(ImageFilter.GaussianBlur(1))
    )


def _folds(size: tuple[int, int], seed: str) -> Image.Image:
    """Return soft light and dark strokes around the middle grey."""
    dice = random.Random(seed)
    folds = Image.new("L", size, 128)
    draw = ImageDraw.Draw(folds)
    for _ in range(60):
        x, y = dice.randint(340, 1100), dice.randint(250, 1400)
        long, lean = dice.randint(100, 380), dice.choice([-1, 1]) * dice.randint(20, 90)
        shade = 128 + dice.choice([-22, -16, 14, 18])
        draw.line((x, y, x + lean, y + long), fill=shade, width=dice.randint(10, 34))
    return folds.filter(ImageFilter.GaussianBlur(22))


def _round(cloth: Image.Image, mask: Image.Image) -> None:
    """Darken the cloth towards its edges."""
    inner = mask.filter(ImageFilter.GaussianBlur(26)).point(lambda v: max(0, 225 - v))
    cloth.paste((20, 20, 28), (0, 0), inner.point(lambda v: v // 2))


def _neckline(draw: ImageDraw.ImageDraw, drawing: Drawing) -> None:
    """Draw the inside of the back, and the collar's edge in front."""
    x, y = drawing.half[0][0] - 8, drawing.half[0][1]
    box = ((CENTRE - x) * SCALE, (y - drawing.neck) * SCALE, (CENTRE + x) * SCALE, (y + drawing.neck) * SCALE)
    dark = tuple(v * 55 // 100 for v in drawing.colour)
    draw.chord(box, 0, 180, fill=dark)
    draw.arc(box, 0, 180, fill=drawing.trim, width=16)
