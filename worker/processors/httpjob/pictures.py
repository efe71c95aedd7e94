"""The pictures that go to an upstream, and those that come back.

CPU work, in a thread of the child: shrink, merge, encode. A result is only looked at by
its first bytes: it is decoded elsewhere, in a sandbox.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from PIL import Image

from tryon.processor import IMAGE_TYPES, Input, ProcessorError

QUALITY: Final = 92
"""Of a JPEG that has to be made anew."""
SMALLEST_SIDE: Final = 256
"""Pixels; a picture is not shrunk below it to fit a limit of bytes."""
MERGED_PIXELS: Final = 4_000_000
"""Of all merged pictures together, where the upstream has no limit."""
MERGED_GAP: Final = 16
"""Pixels between merged pictures, which lie on white."""

_FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded picture."""

    data: bytes = field(repr=False)
    type: str
    width: int = 0
    height: int = 0

    @property
    def base64(self) -> str:
        """Return the content in base64."""
        return base64.b64encode(self.data).decode()

    @property
    def data_url(self) -> str:
        """Return the content as a URL (RFC 2397)."""
        return f"data:{self.type};base64,{self.base64}"

    @property
    def file_name(self) -> str:
        """Return a name with the usual extension."""
        return f"image.{self.type.partition('/')[2].replace('jpeg', 'jpg')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an upstream takes; None: no limit."""

    pixels: int | None = None
    bytes: int | None = None
    types: tuple[str, ...] = IMAGE_TYPES


def prepare(inputs: Sequence[Input], limits: Limits, *, merge: bool = False) -> list[Picture]:
    """Return the pictures within the limits: as they are wherever they are within.

    With ``merge`` several become one, side by side. Raises ProcessorError: a picture
    cannot be made small enough.
    """
    if merge and len(inputs) > 1:
        share = (limits.pixels or MERGED_PIXELS) // len(inputs)
        return [_fit(_merged([_within(_open(each.read()), share) for each in inputs]), limits)]
    return [_prepared(each, limits) for each in inputs]


def sniff(data: bytes) -> str | None:
    """Return the type that the first bytes say; None: no type of an output."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"):
        return "video/mp4"
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm"
    return None


def decode(text: str, max_bytes: int) -> bytes | None:
    """Return the content of a data URL or of base64; None: it is neither.

    Raises ProcessorError: it is larger than ``max_bytes``.
    """
    if len(text) > max_bytes * 4 // 3 + 1024:
        raise ProcessorError("processor_error")
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _prepared(given: Input, limits: Limits) -> Picture:
    data = given.read()
    width, height = given.width, given.height
    if not width or not height:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    small = limits.pixels is None or width * height <= limits.pixels
    if small and given.type in limits.types and (limits.bytes is None or len(data) <= limits.bytes):
        return Picture(data, given.type, width, height)
    return _fit(_open(data), limits)


def _open(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _fit(image: Image.Image, limits: Limits) -> Picture:
    """Return the image, smaller until it is within the limits."""
    if limits.pixels is not None:
        image = _within(image, limits.pixels)
    while True:
        picture = _encode(image, limits.types)
        if limits.bytes is None or len(picture.data) <= limits.bytes:
            return picture
        if min(image.size) * 0.8 < SMALLEST_SIDE:
            raise ProcessorError("processor_error")
        image = _scaled(image, max(0.5, min(0.8, math.sqrt(limits.bytes / len(picture.data)))))


def _within(image: Image.Image, pixels: int) -> Image.Image:
    now = image.width * image.height
    return image if now <= pixels else _scaled(image, math.sqrt(pixels / now))


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    # Rounded down: a limit of pixels is a limit.
    size = (max(1, math.floor(image.width * factor)), max(1, math.floor(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _encode(image: Image.Image, types: tuple[str, ...]) -> Picture:
    clear = image.mode == "RGBA"
    wanted = ("image/png", "image/webp", "image/jpeg") if clear else ("image/jpeg", "image/webp", "image/png")
    type = next(each for each in wanted if each in types)
    if clear and type == "image/jpeg":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    file = io.BytesIO()
    image.save(file, _FORMATS[type], **({} if type == "image/png" else {"quality": QUALITY}))
    return Picture(file.getvalue(), type, *image.size)


def _merged(images: Sequence[Image.Image]) -> Image.Image:
    """Return one picture with all of them on white, in rows of the same height."""
    columns = math.ceil(math.sqrt(len(images)))
    cell = (max(each.width for each in images), max(each.height for each in images))
    rows = math.ceil(len(images) / columns)
    size = tuple(count * side + (count - 1) * MERGED_GAP for count, side in zip((columns, rows), cell, strict=True))
    merged = Image.new("RGB", (size[0], size[1]), "white")
    for number, image in enumerate(images):
        left = (number % columns) * (cell[0] + MERGED_GAP) + (cell[0] - image.width) // 2
        top = (number // columns) * (cell[1] + MERGED_GAP) + (cell[1] - image.height) // 2
        merged.paste(image, (left, top), image if image.mode == "RGBA" else None)
    return merged
