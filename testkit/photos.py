"""Pictures that cost what photos cost, and pictures whose colours are known.

Photos with all that a phone adds are those of `tryon sample-photos`
(:mod:`server.adapters.imaging.sample_photos`). :func:`patches` and what follows it make
files as cameras and editors write them: with profiles, numbers of colours, damage.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

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


# -- pictures whose colours are known --------------------------------------------------

PATCHES: Final = ((220, 30, 30), (30, 170, 60), (40, 60, 220), (240, 210, 40), (224, 178, 150), (128, 128, 128))
"""Colours of :func:`patches`, from the left and from above: three in a row."""
SIDE: Final = 48
"""Side of a patch, in pixels: a whole number of a JPEG's blocks."""

P3_COLUMNS: Final = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB_COLUMNS: Final = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
"""X, Y, Z of red, green and blue of Display P3 and sRGB, adapted to D50."""

Tags = dict[bytes, bytes]


def patches(mode: str = "RGB") -> Image.Image:
    """Return six squares of :data:`PATCHES`; a mode with alpha is half transparent."""
    picture = Image.new("RGB", (3 * SIDE, 2 * SIDE))
    for number, colour in enumerate(PATCHES):
        left, top = number % 3 * SIDE, number // 3 * SIDE
        picture.paste(colour, (left, top, left + SIDE, top + SIDE))
    if mode == "P":
        return picture.quantize(len(PATCHES))
    if mode in ("LA", "RGBA"):
        picture = picture.convert("RGBA" if mode == "RGBA" else "LA")
        picture.putalpha(128)
    return picture.convert(mode)


def centres(picture: Image.Image) -> list[tuple[int, ...]]:
    """Return the pixel amid each patch, as RGB."""
    rgb = picture.convert("RGB")
    found = [rgb.getpixel((n % 3 * SIDE + SIDE // 2, n // 3 * SIDE + SIDE // 2)) for n in range(len(PATCHES))]
    return [pixel for pixel in found if isinstance(pixel, tuple)]


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    """Return the file of a picture."""
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def icc_profile(tags: Tags, *, space: bytes = b"RGB ", connection: bytes = b"XYZ ", name: str = "test") -> bytes:
    """Return an ICC profile (version 2.4) of these tags."""
    content = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + bytes(79),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _xyz((0.9642, 1.0, 0.8249)),
        **tags,
    }
    table, body = struct.pack(">I", len(content)), b""
    for tag, value in content.items():
        value += bytes(-len(value) % 4)
        table += tag + struct.pack(">II", 132 + 12 * len(content) + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"", 0x02400000, b"mntr", space, connection)
    return head + bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249) + bytes(48) + table + body


def rgb_profile(columns: Sequence[Sequence[float]], curve: bytes, name: str = "test") -> bytes:
    """Return the profile of three primaries and one of the curves below."""
    primaries = {tag: _xyz(column) for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    return icc_profile({**primaries, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)}, name=name)


def grey_profile(curve: bytes) -> bytes:
    """Return the profile of a grey picture."""
    return icc_profile({b"kTRC": curve}, space=b"GRAY")


def cmyk_profile(corners: dict[tuple[int, ...], tuple[int, int, int]]) -> bytes:
    """Return the profile of inks: Lab (L of 100, a, b) of each of their 16 mixtures."""
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + bytes(range(256)) * 4
    for inks in sorted(corners):
        light, a, b = corners[inks]
        lut += bytes((round(light * 2.55), a + 128, b + 128))
    return icc_profile({b"A2B0": lut + bytes(range(256)) * 3}, space=b"CMYK", connection=b"Lab ")


def gamma_curve(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


def table_curve(values: Sequence[float]) -> bytes:
    return b"curv" + bytes(4) + struct.pack(f">I{len(values)}H", len(values), *(round(v * 65535) for v in values))


def srgb_curve() -> bytes:
    """Return sRGB's curve as phones write it, with five parameters."""
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


# -- files, piece by piece -------------------------------------------------------------


def png_chunk(name: bytes, content: bytes, *, checksum: int | None = None) -> bytes:
    """Return a chunk, with a wrong checksum if one is given."""
    right = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", right if checksum is None else checksum)


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Insert chunks behind the header chunk."""
    return png[:33] + b"".join(chunks) + png[33:]


def png_16_bit(picture: Image.Image) -> bytes:
    """Return a PNG of 16 bits a channel: each byte of L, LA, RGB or RGBA, twice."""
    colour = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[picture.mode]
    row = picture.width * len(picture.getbands())
    content = picture.tobytes()
    lines = (content[at : at + row] for at in range(0, len(content), row))
    packed = zlib.compress(b"".join(b"\0" + bytes(v for v in line for _ in range(2)) for line in lines))
    header = struct.pack(">IIBBBBB", *picture.size, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(name, content) for name, content in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    )


def cicp(primaries: int, transfer: int, *, matrix: int = 0, full: int = 1) -> bytes:
    return png_chunk(b"cICP", bytes((primaries, transfer, matrix, full)))


def gama(value: int) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", value))


def chrm(*values: int) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *values))


def iccp(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))


def with_nclx(avif: bytes, primaries: int, transfer: int) -> bytes:
    """Return an AVIF with other numbers in its ``nclx`` box."""
    at = avif.index(b"nclx") + 4
    return avif[:at] + struct.pack(">HH", primaries, transfer) + avif[at + 4 :]


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def exif_of(entries: bytes, count: int = 1, order: bytes = b"II") -> bytes:
    """Return EXIF with one directory of ``count`` entries of 12 bytes."""
    start = {b"II": b"II*\0\x08\0\0\0", b"MM": b"MM\0*\0\0\0\x08"}[order]
    return b"Exif\0\0" + start + count.to_bytes(2, "little" if order == b"II" else "big") + entries + bytes(4)


ARITHMETIC_JPEG: Final = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoK"
    "CgoKBggLDAsKDAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoK"
    "CgoKCgoKCgr/yQARCABAAGADAREAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AN2J4fgyPXebaqh3FsKwg6PTSu9C"
    "+ydsknXAz0f37lFT/UW+gSVAzQfttuWxDr/2LqXIh6C+YOks29AbUPpGqG/CSeNc3tP621zhR6S2zNzDspWGUzPbqLd9C0k1SHk5"
    "3fQHszNqGXfMnGrhE4UdGMFZ93X8BVYislDM4gFAcP/Z"
)
"""Patches of 32 x 32 pixels, arithmetic-coded, which no encoder of ours can; base64."""
