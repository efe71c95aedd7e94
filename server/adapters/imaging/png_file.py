"""PNG: the chunks that carry the picture, and those that say what it means.

W3C PNG, third edition. An ancillary chunk with a wrong checksum costs the chunk, not
the picture. Of those that speak of colours the first of cICP, iCCP, sRGB, gAMA with
cHRM counts (4.3), and only before the pixels. The decoder gets header, palette,
transparency and pixels; the still picture of an animation is the one it has for viewers
that know no animation.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from server.adapters.imaging.exif import UPRIGHT, orientation
from server.adapters.imaging.parts import MAX_PROFILE_BYTES, SRGB, CodePoints, Colours, Gamma, Parts
from tryon.protocol.errors import Unprocessable

MAX_CHUNKS: Final = 100_000
"""Chunks of a PNG, at most; encoders write 8 KiB and more into each."""

_SIGNATURE_BYTES: Final = 8
_KEPT: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_READ: Final = frozenset({b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cLLI", b"mDCV", b"eXIf"})
_END: Final = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
_PALETTE: Final = b"\3"
_GREY: Final = frozenset({0, 4})  # colour types
_MAX_COLOUR_BYTES: Final = 6
"""Bytes of a transparent colour; a chunk of ten million would take 0.8 GB."""

SRGB_CHROMATICITIES: Final = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_SRGB_GAMMA: Final = 45455


def read_png(data: bytes) -> Parts:
    """Return the parts of a PNG. Raises Unprocessable if its header is none."""
    view, at = memoryview(data), _SIGNATURE_BYTES
    kept: list[memoryview | bytes] = [data[:at]]
    notes: dict[bytes, bytes] = {}
    header, cut, pixels = b"", True, False
    for _ in range(MAX_CHUNKS):
        if len(data) - at < 8:
            break
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name == b"IEND":
            cut = False
            break
        if end > len(data):
            if name == b"IDAT":  # as much of it as there is
                kept.append(view[at:])
            break
        if name == b"IDAT":
            kept.append(view[at:end])
            pixels = True
        elif not pixels and (name in _KEPT or name in _READ):
            content = data[at + 8 : end - 4]
            intact = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
            if name == b"IHDR":
                header = header or content
            if name == b"tRNS" and intact and header[9:10] != _PALETTE:
                kept.append(_chunk(name, _of_8_bits(content[:_MAX_COLOUR_BYTES], header[8])))
            elif name in _KEPT and (intact or name != b"tRNS"):
                kept.append(view[at:end])
            elif intact:
                notes.setdefault(name, content)
        at = end
    else:
        raise Unprocessable("unreadable_image")
    if len(header) != 13:
        raise Unprocessable("unreadable_image")
    return Parts(
        data=b"".join(kept if cut else [*kept, _END]),
        colours=_colours(notes),
        orientation=orientation(notes[b"eXIf"]) if b"eXIf" in notes else UPRIGHT,
        cut=cut,
        grey=header[9] in _GREY,
    )


def _of_8_bits(transparent: bytes, depth: int) -> bytes:
    """Return the transparent colour as the decoder makes its pixels: of 8 bits."""
    levels = struct.unpack_from(f">{len(transparent) // 2}H", transparent)
    scaled = (level >> 8 if depth == 16 else level * 255 // (2**depth - 1) for level in levels)
    return b"".join(struct.pack(">H", level & 0xFFFF) for level in scaled)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _colours(notes: dict[bytes, bytes]) -> tuple[Colours, ...]:
    found: list[Colours | None] = [_numbers(notes), _profile(notes.get(b"iCCP", b""))]
    srgb = notes.get(b"sRGB", b"")
    if len(srgb) == 1 and srgb[0] <= 3:
        found.append(SRGB)
    found.append(_gamma(notes.get(b"gAMA", b""), notes.get(b"cHRM")))
    return tuple(colours for colours in found if colours)


def _numbers(notes: dict[bytes, bytes]) -> CodePoints | None:
    cicp = notes.get(b"cICP", b"")
    if len(cicp) != 4 or cicp[2:] != b"\0\1":  # RGB, all of the range
        return None
    numbers = CodePoints(cicp[0], cicp[1])
    light, screen = notes.get(b"cLLI", b""), notes.get(b"mDCV", b"")
    brightest = int.from_bytes(light[:4]) if len(light) == 8 else 0
    if not brightest and len(screen) == 24:
        brightest = int.from_bytes(screen[16:20])
    return numbers._replace(peak=brightest / 10_000) if brightest else numbers


def _profile(content: bytes) -> bytes | None:
    _, _, method = content.partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(method[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if unpacking.eof else None


def _gamma(gamma: bytes, chromaticities: bytes | None) -> Gamma | None:
    """Return the colours of gAMA and cHRM; None for sRGB.

    Without a gamma chromaticities say nothing, and sRGB's gamma alone means sRGB.
    """
    value = int.from_bytes(gamma) if len(gamma) == 4 else 0
    if chromaticities is None or len(chromaticities) != 32:
        return None if value in (0, _SRGB_GAMMA) else Gamma(100_000 / value, SRGB_CHROMATICITIES)
    points = tuple(part / 100_000 for part in struct.unpack(">8I", chromaticities))
    return Gamma(100_000 / value, points) if value else None
