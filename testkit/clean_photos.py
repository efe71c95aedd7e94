"""Checks of a clean photo's file: nothing may be in it but pixels."""

from __future__ import annotations

import struct

from server.adapters.imaging.sample_photos import SECRETS
from server.domain.images import CleanImage, ImageFormat


def jpeg_segments(data: bytes) -> list[int]:
    """Return the marker codes up to the first scan.

    The last item is the number of bytes after the end of the image.
    """
    found, at = [], 2
    while data[at + 1] != 0xDA:
        found.append(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return [*found, len(data) - data.index(b"\xff\xd9", at) - 2]


def chunks(data: bytes, *, start: int, big_endian: bool) -> list[bytes]:
    """Return the names of the chunks of a PNG or WebP file."""
    found, at = [], start
    while at < len(data):
        if big_endian:
            length, name = struct.unpack_from(">I4s", data, at)
            at += 12 + length
        else:
            name, length = struct.unpack_from("<4sI", data, at)
            at += 8 + length + length % 2
        found.append(name)
    return found


def without_tables(data: bytes) -> bytes:
    """Return a JPEG without its quantization tables, up to the first scan.

    They are kept as the sent file has them. In a damaged file whose lengths lie,
    metadata may have become a table: 64 numbers of the sender's own.
    """
    out, at = data[:2], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] != 0xDB:
            out += data[at:end]
        at = end
    return out + data[at:]


def assert_nothing_but_pixels(image: CleanImage) -> None:
    """Check that a file has the pieces that pixels need, and none more.

    Raises AssertionError with what else there is.
    """
    searched = without_tables(image.data) if image.format is ImageFormat.JPEG else image.data
    for secret in SECRETS:
        assert secret not in searched
    match image.format:
        case ImageFormat.JPEG:
            segments = jpeg_segments(image.data)
            assert set(segments[:-1]) <= {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables, baseline frame
            assert segments[-1] == 0
        case ImageFormat.PNG:
            assert set(chunks(image.data, start=8, big_endian=True)) == {b"IHDR", b"IDAT", b"IEND"}
        case _:
            assert set(chunks(image.data, start=12, big_endian=False)) <= {b"VP8 ", b"VP8X", b"ALPH"}
