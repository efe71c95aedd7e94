"""``python -m testkit.contact_sheet``: every pair of person and garment, dressed.

Writes ``docs/overlay.jpg``: for each pair the photo, the garment, and the result or the
code of the refusal. It needs the extra ``overlay`` and its weights.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from testkit.garments import draw_garment
from tryon.processor import Input, Job, Output, ProcessorError
from tryon.processor.conformance import Reports
from worker.processors.overlay.processor import OverlayProcessor

PEOPLE: Final = Path(__file__).parent / "people"
"""Photos that may ship; its README.md tells where each comes from."""

PAIRS: Final = (
    ("ada", "striped-tee"),
    ("ada", "mustard-sweater"),
    ("ben", "sun-tee"),
    ("ben", "navy-sweater"),
    ("cleo", "checked-shirt"),
    ("cleo", "navy-sweater"),
    ("dan", "green-blouse"),
    ("dan", "violet-top"),
    ("eve", "white-tee"),
    ("eve", "violet-top"),
    ("finn", "striped-tee"),
    ("finn", "white-tee"),
    ("gwen", "mustard-sweater"),
    ("gwen", "sun-tee"),
    ("astronaut", "navy-sweater"),
    ("hopper", "white-tee"),
)
"""Person and garment of each pair."""

COLUMNS: Final = 4
RESULT: Final = (270, 360)
SMALL: Final = (128, 170)
CAPTION: Final = 30
MARGIN: Final = 10


def encoded(picture: Image.Image) -> bytes:
    """Return the picture as a PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def photo_of(person: str) -> bytes:
    """Return the photo's file."""
    return (PEOPLE / f"{person}.jpg").read_bytes()


def job_of(folder: Path, person: bytes, garment: bytes) -> Job:
    """Return a job with these two pictures."""
    inputs = []
    for role, data in (("person", person), ("garment", garment)):
        path = folder / role
        path.write_bytes(data)
        kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
        digest = hashlib.sha256(data).hexdigest()
        inputs.append(Input(role=role, type=kind, path=str(path), bytes=len(data), sha256=digest))
    return Job(session_id="sheet", inputs=tuple(inputs))


async def dress(processor: OverlayProcessor, person: bytes, garment: bytes) -> bytes:
    """Return the result as a JPEG. Raises :class:`ProcessorError` as the run does."""
    with tempfile.TemporaryDirectory() as folder:
        output = await processor.run(job_of(Path(folder), person, garment), Reports())
    assert isinstance(output, Output)
    return output.data


async def sheet(pairs: tuple[tuple[str, str], ...] = PAIRS) -> Image.Image:
    """Return the contact sheet."""
    processor = OverlayProcessor()
    await processor.start()
    wide, tall = RESULT[0] + SMALL[0] + MARGIN, RESULT[1] + CAPTION
    rows = -(-len(pairs) // COLUMNS)
    size = (COLUMNS * (wide + 2 * MARGIN), rows * (tall + MARGIN) + MARGIN)
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    for at, (person, garment) in enumerate(pairs):
        x, y = (at % COLUMNS) * (wide + 2 * MARGIN) + MARGIN, (at // COLUMNS) * (tall + MARGIN) + MARGIN
        photo, cloth = photo_of(person), encoded(draw_garment(garment))
        try:
            result, said = await dress(processor, photo, cloth), ""
        except ProcessorError as error:
            result, said = None, f": refused, {error.code}"
        _paste(page, Image.open(io.BytesIO(photo)), (x, y), SMALL)
        _paste(page, Image.open(io.BytesIO(cloth)), (x, y + SMALL[1] + MARGIN), SMALL)
        if result is not None:
            _paste(page, Image.open(io.BytesIO(result)), (x + SMALL[0] + MARGIN, y), RESULT)
        draw.text((x, y + RESULT[1] + 4), f"{at + 1}  {person}, {garment}{said}", fill="black", font=font)
    return page


def _paste(page: Image.Image, picture: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> None:
    picture = picture.convert("RGB")
    picture.thumbnail(size, Image.Resampling.LANCZOS)
    page.paste(picture, corner)


def main() -> None:
    """Write the sheet."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/overlay.jpg")
    asyncio.run(sheet()).save(target, quality=80, optimize=True)


if __name__ == "__main__":
    main()
