"""JPEG as an output: the segments of the picture stay as they are, all others go.

ITU-T T.81 annex B, JFIF 1.02, XMP part 3 (APP1), C2PA 2.1 (APP11, JUMBF).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from server.adapters.imaging.outputs.provenance import Stripped
from server.adapters.imaging.parts import Parts

_SCAN, _JFIF, _ADOBE, _MANIFEST = 0xDA, 0xE0, 0xEE, 0xEB
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_BYTES: Final = {_JFIF: 14, _ADOBE: 12}
"""Bytes of the content that speak of colours; behind JFIF's stands a thumbnail."""


def strip(data: bytes, parts: Parts) -> Stripped:
    """Return the file with what :func:`~..jpeg_file.read_jpeg` keeps of it."""
    bare = bytearray(parts.data[:2])
    at = 2
    for marker, begin, end in _segments(parts.data):
        content = parts.data[begin + 4 : end]
        if (most := _BYTES.get(marker)) is not None:
            content = content[:most]
            if marker == _JFIF:
                content = content[:12] + b"\0\0"
        bare += _segment(marker, content)
        at = end
    bare += parts.data[at:]
    manifests = [(begin, end) for marker, begin, end in _segments(data) if _is_manifest(data, marker, begin)]
    return Stripped(
        data=bytes(bare),
        manifest=b"".join(_box(data[begin + 4 : end]) for begin, end in manifests),
        is_whole=_without(data, manifests) == bare,
    )


def mark(data: bytes, packet: bytes) -> bytes:
    """Return the file with an XMP packet, behind JFIF's segment if it has one."""
    first = next(_segments(data), None)
    at = first[2] if first and first[0] == _JFIF else 2
    return data[:at] + _segment(0xE1, _XMP + packet) + data[at:]


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of each segment before the first scan."""
    at = 2
    while len(data) - at >= 4 and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == _SCAN or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or end > len(data):
            return
        yield marker, at, end
        at = end


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2) + content


def _is_manifest(data: bytes, marker: int, begin: int) -> bool:
    return marker == _MANIFEST and data[begin + 4 : begin + 6] == b"JP"


def _box(content: bytes) -> bytes:
    """Return a segment's part of the JUMBF box, whose header each segment repeats."""
    number = int.from_bytes(content[4:8])
    return content[8:] if number == 1 else content[16:]


def _without(data: bytes, ranges: list[tuple[int, int]]) -> bytes:
    kept, at = bytearray(), 0
    for begin, end in ranges:
        kept += data[at:begin]
        at = end
    return bytes(kept + data[at:])
