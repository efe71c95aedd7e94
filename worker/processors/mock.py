"""The default processor: a worker's whole life without an AI model.

It has visible stages, and makes a picture from the input.

A run takes ``seconds``; the share ``failure_rate`` of the runs fails (finally, as
``mock_failure``). With a ``seed`` the failures are repeatable: whether the n-th run of
a worker fails, and at which progress, is a function of the seed and n alone. It is not
a function of the photo: the same one tried again may work, and a test that uploads one
photo many times sees the rate.
"""

from __future__ import annotations

import asyncio
import io
import math
import random
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from tryon.processor import Info, Job, Output, ProcessorError, Report, Role

STAGES: Final = (
    (0.12, "reading the photo"),
    (0.30, "finding the body"),
    (0.55, "warping the garment"),
    (0.90, "rendering"),
    (1.00, "finishing"),
)
"""The stages: the progress up to which each lasts, and its text."""

REPORT_SECONDS: Final = 0.2
"""Pause between two reports."""
LONG_SIDE: Final = 1024
"""Pixels of the result's longer side, at most."""
SMALLEST_LONG_SIDE: Final = 640
"""Pixels of the result's longer side, at least."""
WIDEST: Final = 2.0
"""Longer side divided by shorter side of the result, at most; the space beside a longer
photo shows the photo again, blurred.
"""

ACCENT: Final = (108, 77, 246)
LABEL: Final = "PREVIEW"


class MockProcessor:
    """A processor that needs no model."""

    info = Info(
        name="mock",
        label="a preview without an AI model",
        roles=(
            Role(name="person", required=True, hint="a person"),
            Role(name="garment", hint="a garment"),
        ),
        typical_seconds=3.0,
    )

    def __init__(self, *, seconds: float = 3.0, failure_rate: float = 0.1, seed: int | None = None) -> None:
        self._seconds = seconds
        self._failure_rate = failure_rate
        self._seed = seed

    def __repr__(self) -> str:
        return f"<MockProcessor {self._seconds:g}s failure_rate={self._failure_rate:g} seed={self._seed}>"

    async def run(self, job: Job, report: Report) -> Output:
        """Return a preview of the photo, after a time with visible stages."""
        fails_at = self._fate(job.number)
        loop = asyncio.get_running_loop()
        started = loop.time()
        picture: asyncio.Task[bytes] | None = None
        try:
            while True:
                elapsed = loop.time() - started
                progress = min(1.0, elapsed / self._seconds) if self._seconds else 1.0
                if fails_at is not None and progress >= fails_at:
                    raise ProcessorError("mock_failure")
                stage = next(name for end, name in STAGES if progress <= end)
                if picture is None and (fails_at is None or self._seconds == 0):
                    picture = asyncio.create_task(asyncio.to_thread(_compose, job))
                await report(progress, stage, max(0.0, self._seconds - elapsed))
                if progress >= 1.0:
                    break
                await asyncio.sleep(min(REPORT_SECONDS, started + self._seconds - loop.time()))
            assert picture is not None
            return Output(await picture)
        finally:
            if picture is not None and not picture.done():
                picture.cancel()

    def _fate(self, n: int) -> float | None:
        """Return the progress at which the n-th run fails; None if it does not."""
        dice = random.Random(None if self._seed is None else f"{self._seed}:{n}")
        return dice.uniform(0.3, 0.9) if dice.random() < self._failure_rate else None


def _compose(job: Job) -> bytes:
    person, garment = job.inputs[0], job.input("garment")
    return compose(person.read(), garment.read() if garment is not None else None)


def compose(image: bytes, garment: bytes | None) -> bytes:
    """Return the preview as a JPEG, its longer side at most :data:`LONG_SIDE` pixels.

    CPU work: 50-200 ms.
    """
    person = _open(image, LONG_SIDE)
    picture = _frame(person)
    if garment is not None:
        _paste_garment(picture, _open(garment, LONG_SIDE // 2))
    _paste_ribbon(picture)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, progressive=True)
    return file.getvalue()


def _open(data: bytes, side: int) -> Image.Image:
    """Return the image on white, its longer side at most ``side`` pixels."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (side, side))  # a large JPEG is decoded at a fraction of its size
        layer = image.convert("RGBA" if image.has_transparency_data else "RGB")
    layer.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    if layer.mode == "RGB":
        return layer
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")


def _frame(person: Image.Image) -> Image.Image:
    """Return the photo at a size and shape that suits a screen."""
    width, height = person.size
    longer = max(width, height, SMALLEST_LONG_SIDE)
    shorter = max(round(longer / WIDEST), round(min(width, height) * longer / max(width, height)))
    size = (longer, shorter) if width > height else (shorter, longer)
    whole = ImageOps.contain(person, size, Image.Resampling.LANCZOS)
    if whole.size == size:
        return whole
    blurred = ImageOps.fit(person, size).filter(ImageFilter.GaussianBlur(24))
    picture = ImageChops.multiply(blurred, Image.new("RGB", size, (190, 190, 195)))
    picture.paste(whole, ((size[0] - whole.width) // 2, (size[1] - whole.height) // 2))
    return picture


def _paste_garment(picture: Image.Image, garment: Image.Image) -> None:
    """Draw the garment as a card in the lower right corner."""
    unit = min(picture.size)
    rim, radius, margin = max(4, unit // 70), max(8, unit // 26), max(8, unit // 24)
    inner = ImageOps.contain(garment, (round(unit * 0.36), round(unit * 0.42)), Image.Resampling.LANCZOS)
    size = (inner.width + 2 * rim, inner.height + 2 * rim)
    left, top = picture.width - size[0] - margin, picture.height - size[1] - margin

    shadow = Image.new("L", picture.size, 0)
    offset = max(2, unit // 120)
    box = (left, top + offset, left + size[0], top + size[1] + offset)
    ImageDraw.Draw(shadow).rounded_rectangle(box, radius, fill=150)
    shadow = shadow.filter(ImageFilter.GaussianBlur(max(3, unit // 60)))
    picture.paste((18, 16, 32), (0, 0), shadow)

    card = Image.new("RGB", size, "white")
    card.paste(inner, (rim, rim))
    picture.paste(card, (left, top), _rounded(size, radius))
    # The photograph inside has corners of its own, parallel to the card's.
    frame = Image.new("RGB", size, "white")
    hole = ImageChops.invert(_inset(size, rim, max(2, radius - rim)))
    picture.paste(frame, (left, top), ImageChops.multiply(hole, _rounded(size, radius)))


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    """Return a mask of a rectangle with smooth round corners."""
    return _inset(size, 0, radius)


def _inset(size: tuple[int, int], inset: int, radius: int) -> Image.Image:
    scale = 4  # Pillow draws without antialiasing
    mask = Image.new("L", (size[0] * scale, size[1] * scale), 0)
    box = (inset * scale, inset * scale, (size[0] - inset) * scale - 1, (size[1] - inset) * scale - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius * scale, fill=255)
    return mask.resize(size, Image.Resampling.LANCZOS)


def _paste_ribbon(picture: Image.Image) -> None:
    """Draw a ribbon across the upper right corner that says ``PREVIEW``."""
    unit = min(picture.size)
    height = max(26, round(unit * 0.072))
    reach = max(150, round(unit * 0.34))  # where its middle line leaves the picture, from the corner along both edges
    length = math.ceil(reach * math.sqrt(2)) + 2 * height
    ribbon = Image.new("RGBA", (length, height), (*ACCENT, 235))
    draw = ImageDraw.Draw(ribbon)
    line = max(1, height // 24)
    for y in (height // 9, height - height // 9 - line):
        draw.rectangle((0, y, length, y + line - 1), fill=(255, 255, 255, 110))
    font = ImageFont.load_default(size=round(height * 0.52))
    gap = height * 0.1
    x = (length - sum(font.getlength(letter) + gap for letter in LABEL) + gap) / 2
    for letter in LABEL:
        draw.text((x, height / 2), letter, font=font, fill="white", anchor="lm")
        x += font.getlength(letter) + gap
    turned = ribbon.rotate(-45, expand=True, resample=Image.Resampling.BICUBIC)
    middle = (picture.width - reach / 2, reach / 2)
    corner = (round(middle[0] - turned.width / 2), round(middle[1] - turned.height / 2))
    shade = Image.new("L", picture.size, 0)
    alpha = turned.getchannel("A").point(lambda value: value * 110 // 255)
    shade.paste(alpha, (corner[0], corner[1] + max(2, unit // 200)))
    picture.paste((12, 10, 30), (0, 0), shade.filter(ImageFilter.GaussianBlur(max(2, unit // 110))))
    picture.paste(turned.convert("RGB"), corner, turned.getchannel("A"))
