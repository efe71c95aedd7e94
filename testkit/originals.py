"""Small pictures of every kind, as real encoders write them: what mutations begin with.

Each is drawn without noise, so that the same version of Pillow always writes the same
bytes, and has the metadata that a clean picture must not have.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final

from PIL import Image, features

from server.adapters.imaging.sample_photos import XMP, metadata
from testkit.photos import ARITHMETIC_JPEG, encoded, png_16_bit, png_chunk, rgb_profile, srgb_curve

_P3: Final = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def plain(side: int, mode: str = "RGB") -> Image.Image:
    """Return a picture of always the same bytes, with gradients in every band."""
    bands = (Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L").rotate(90))
    picture = Image.merge("RGB", bands).resize((side, side))
    if mode in ("LA", "RGBA"):
        picture = picture.convert(mode)
        picture.putalpha(Image.radial_gradient("L").resize((side, side)))
    return picture.convert(mode)


def interlaced_png(picture: Image.Image) -> bytes:
    """Return an RGB picture as an interlaced PNG (Adam7), which Pillow can't write."""
    lines = bytearray()
    for left, top, across, down in _ADAM7:
        for y in range(top, picture.height, down):
            row = picture.crop((0, y, picture.width, y + 1)).tobytes()
            lines += b"\0" + b"".join(row[3 * x : 3 * x + 3] for x in range(left, picture.width, across))
    header = struct.pack(">IIBBBBB", *picture.size, 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(lines))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in chunks)


_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of each pass (PNG third edition, 8.1)."""


def _heic_in_name() -> bytes:
    """Return an AVIF whose file type says HEIC: the brand of another decoder."""
    return _file("AVIF", 64).replace(b"ftypavif", b"ftypheic", 1) if features.check("avif") else b"\0\0\0\x18ftypheic"


def _file(format: str, side: int, mode: str = "RGB", **options: Any) -> bytes:
    return encoded(plain(side, mode), format, **options)


def _several(format: str, **options: Any) -> bytes:
    more = [plain(64).rotate(90), Image.new("RGB", (64, 64))]
    return _file(format, 64, save_all=True, append_images=more, **options)


def _profile() -> bytes:
    return rgb_profile(_P3, srgb_curve())


JPEG: Final[Mapping[str, Callable[[], bytes]]] = {
    "jpeg": lambda: _file("JPEG", 112, exif=metadata(6), xmp=XMP, comment=b"taken at home"),
    "jpeg progressive": lambda: _file("JPEG", 96, progressive=True, icc_profile=_profile()),
    "jpeg 4:4:4, restarts": lambda: _file("JPEG", 80, subsampling=0, restart_marker_blocks=2),
    "jpeg grey": lambda: _file("JPEG", 80, "L", exif=metadata(3)),
    "jpeg CMYK": lambda: _file("JPEG", 72, "CMYK"),
    "jpeg CMYK progressive": lambda: _file("JPEG", 72, "CMYK", progressive=True),
    "jpeg arithmetic": lambda: base64.b64decode(ARITHMETIC_JPEG),
    "mpo": lambda: _several("MPO"),
}
PNG: Final[Mapping[str, Callable[[], bytes]]] = {
    "png 1": lambda: _file("PNG", 72, "1"),
    "png L": lambda: _file("PNG", 72, "L"),
    "png LA": lambda: _file("PNG", 72, "LA"),
    "png RGB": lambda: _file("PNG", 72, exif=metadata(6)),
    "png RGBA": lambda: _file("PNG", 72, "RGBA", exif=metadata(3), icc_profile=_profile()),
    "png palette": lambda: encoded(plain(80).quantize(16), "PNG", transparency=bytes([0, 128])),
    "png 16 bits": lambda: png_16_bit(plain(64, "RGBA")),
    "png grey 16 bits": lambda: png_16_bit(plain(64, "L")),
    "png interlaced": lambda: interlaced_png(plain(72)),
    "apng": lambda: _several("PNG"),
}
WEBP: Final[Mapping[str, Callable[[], bytes]]] = {
    "webp": lambda: _file("WEBP", 80, exif=metadata(8), xmp=XMP),
    "webp lossless": lambda: _file("WEBP", 80, lossless=True),
    "webp alpha": lambda: _file("WEBP", 72, "RGBA", icc_profile=_profile()),
    "webp lossless alpha": lambda: _file("WEBP", 72, "RGBA", lossless=True),
    "webp animated": lambda: _several("WEBP"),
}
AVIF: Final[Mapping[str, Callable[[], bytes]]] = {
    "avif": lambda: _file("AVIF", 80, exif=metadata(6), speed=10),
    "avif 4:4:4 alpha": lambda: _file("AVIF", 64, "RGBA", subsampling="4:4:4", speed=10),
    "avif animated": lambda: _several("AVIF", speed=10),
}
REFUSED: Final[Mapping[str, Callable[[], bytes]]] = {
    "gif": lambda: _file("GIF", 64, "P"),
    "gif animated": lambda: _several("GIF"),
    "tiff": lambda: _file("TIFF", 64),
    "bmp": lambda: _file("BMP", 64),
    "ico": lambda: _file("ICO", 64),
    "jpeg 2000": lambda: _file("JPEG2000", 64) if features.check("jpg_2000") else b"\0\0\0\x0cjP  \r\n\x87\n",
    "heic in name": _heic_in_name,
    "pdf": lambda: _file("PDF", 64),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
}
"""Files of kinds that are refused by their first bytes."""


@cache
def originals() -> Mapping[str, bytes]:
    """Return every kind that this installation encodes, by its name."""
    return dict(_made())


def _made() -> Iterator[tuple[str, bytes]]:
    for kind in (JPEG, PNG, WEBP, AVIF if features.check("avif") else {}, REFUSED):
        for name, make in kind.items():
            yield name, make()
