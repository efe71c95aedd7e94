"""WebP as an output: the chunks of the still picture stay as they are, all others go.

RFC 9649 section 2; C2PA 2.1 (chunk "C2PA").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from server.adapters.imaging.exif import UPRIGHT, orientation
from server.adapters.imaging.outputs.provenance import Stripped
from server.adapters.imaging.profiles import is_srgb

_MAX_CHUNKS: Final = 1024
_MANIFEST: Final = b"C2PA"
_PICTURE: Final = frozenset({b"ALPH", b"VP8 ", b"VP8L"})
_WHOLE: Final = _PICTURE | {b"VP8X", _MANIFEST}
_ALPHA, _XMP = 0x10, 0x04


def strip(data: bytes) -> Stripped | None:
    """Return the file without metadata.

    None if only a new encoding helps: animated, turned, of other colours, or damaged.
    """
    end = int.from_bytes(data[4:8], "little") + 8
    if end > len(data):
        return None
    chunks = list(_chunks(data, end))
    names = [name for name, _ in chunks]
    picture = [chunk for chunk in chunks if chunk[0] in _PICTURE]
    by_name = dict(chunks)
    if b"ANIM" in by_name or b"ANMF" in by_name or not picture or len(set(names)) < len(names):
        return None
    if orientation(by_name.get(b"EXIF", b"")) != UPRIGHT or not _is_srgb(by_name.get(b"ICCP")):
        return None
    extended = by_name.get(b"VP8X", b"")
    bare = [(b"VP8X", bytes((_ALPHA, 0, 0, 0)) + extended[4:10])] if b"ALPH" in by_name and extended else []
    return Stripped(
        data=_file([*bare, *picture]),
        manifest=by_name.get(_MANIFEST, b""),
        is_whole=end == len(data) and _WHOLE.issuperset(names),
    )


def mark(data: bytes, packet: bytes, size: tuple[int, int]) -> bytes:
    """Return the file with an XMP packet; ``size`` is that of the picture."""
    chunks = [chunk for chunk in _chunks(data, len(data)) if chunk[0] != b"VP8X"]
    alpha = any(name == b"ALPH" or (name == b"VP8L" and content[4] & 0x10) for name, content in chunks)
    width, height = size
    flags = (_XMP | _ALPHA if alpha else _XMP).to_bytes(4, "little")
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return _file([(b"VP8X", flags + canvas), *chunks, (b"XMP ", packet)])


def _chunks(data: bytes, end: int) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    for _ in range(_MAX_CHUNKS):
        if end - at < 8:
            return
        name, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            return
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _file(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _is_srgb(profile: bytes | None) -> bool:
    try:
        return profile is None or is_srgb(profile)
    except (struct.error, ValueError):
        return False
