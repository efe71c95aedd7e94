"""Photos to clean, and what must hold of a clean one."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from server.adapters.imaging.cleaner import clean
from server.adapters.imaging.sample_photos import CORNERS
from server.domain.images import CleanImage, Limits
from tryon.protocol.errors import TryOnError

LIMITS = Limits()


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def cleaned(data: bytes, limits: Limits = LIMITS) -> CleanImage:
    return clean(io.BytesIO(data), limits)


def refusal(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(TryOnError) as caught:
        cleaned(data, limits)
    return caught.value.code


def opened(image: CleanImage) -> Image.Image:
    picture = Image.open(io.BytesIO(image.data))
    picture.load()
    return picture


def corner(picture: Image.Image, name: str) -> tuple[int, ...]:
    margin = min(picture.size) // 20
    x = margin if name.endswith("left") else picture.width - 1 - margin
    y = margin if name.startswith("top") else picture.height - 1 - margin
    value = picture.convert("RGB").getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(int(band) for band in value)


def near(a: tuple[int, ...], b: tuple[int, ...], tolerance: int = 12) -> bool:
    return all(abs(left - right) <= tolerance for left, right in zip(a, b, strict=True))


def assert_upright(picture: Image.Image) -> None:
    for name, colour in CORNERS.items():
        assert near(corner(picture, name), colour, 40), name  # small corners take on some of what is beside them


def grey_16(transparent: int | None = None) -> bytes:
    ramp = Image.frombytes("I;16", (256, 64), b"".join(struct.pack("<H", x * 257) for x in range(256)) * 64)
    return (
        encode(ramp, "PNG")
        if transparent is None
        else with_chunk(encode(ramp, "PNG"), b"tRNS", struct.pack(">H", transparent))
    )


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """Insert a chunk right after the header chunk."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + chunk + png[33:]


def wide_profile(primaries: tuple[tuple[float, float, float], ...] | None = None) -> bytes:
    """Return a matrix profile of Display P3, as phones embed it.

    D50-adapted primaries, gamma 2.2.
    """
    columns = primaries or ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 11) + b"Display P3\0" + bytes(4 + 4 + 2 + 1 + 67),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642) + fixed(1.0) + fixed(0.8249),
        b"rXYZ": b"XYZ " + bytes(4) + b"".join(map(fixed, columns[0])),
        b"gXYZ": b"XYZ " + bytes(4) + b"".join(map(fixed, columns[1])),
        b"bXYZ": b"XYZ " + bytes(4) + b"".join(map(fixed, columns[2])),
        **{name: b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) for name in (b"rTRC", b"gTRC", b"bTRC")},
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sIIIIIIiii4s44s",
        128 + len(table) + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp", b"APPL",
        0, 0, 0, 0, 0, 0, 63190, 65536, 54061, b"test", bytes(44),
    )  # fmt: skip
    return header + table + body
