"""``python -m testkit.samples``: the pictures that the demo page offers.

Writes ``static/samples``: two people and two garments to try at once, and one try-on
before and after, made by the overlay (it needs that extra and its weights).
"""

from __future__ import annotations

import asyncio
import io
from typing import Final

from PIL import Image

from testkit.contact_sheet import dress, encoded, photo_of
from testkit.garments import draw_garment
from testkit.processes import ROOT
from worker.processors.overlay.processor import OverlayProcessor

SAMPLES: Final = ROOT / "static" / "samples"
MAX_BYTES: Final = 40_000
"""Largest file: the page loads all six."""

PEOPLE: Final = ("cleo", "ben")
GARMENTS: Final = ("striped-tee", "mustard-sweater")
EXAMPLE: Final = ("ben", "sun-tee")
"""Person and garment of the picture before and after."""
PERSON_SIZE: Final = (600, 800)
GARMENT_SIZE: Final = (540, 600)
QUALITY: Final = 82


def save(picture: Image.Image, name: str, size: tuple[int, int]) -> None:
    """Write the picture as WebP, as small as the page shows it."""
    path = SAMPLES / f"{name}.webp"
    picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(path, quality=QUALITY, method=6)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path} has more than {MAX_BYTES} bytes")


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


async def write() -> None:
    """Write all of them."""
    SAMPLES.mkdir(exist_ok=True)
    for at, person in enumerate(PEOPLE, 1):
        save(opened(photo_of(person)), f"person-{at}", PERSON_SIZE)
    for at, garment in enumerate(GARMENTS, 1):
        save(draw_garment(garment), f"garment-{at}", GARMENT_SIZE)
    processor = OverlayProcessor()
    await processor.start()
    person, garment = EXAMPLE
    before = photo_of(person)
    after = await dress(processor, before, encoded(draw_garment(garment)))
    save(opened(before), "before", PERSON_SIZE)
    save(opened(after), "after", PERSON_SIZE)


if __name__ == "__main__":
    asyncio.run(write())
