"""PNG as an output: the chunks of the still picture stay as they are, all others go.

W3C PNG, third edition; XMP part 3 (iTXt), C2PA 2.1 (caBX).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from server.adapters.imaging.outputs.provenance import Stripped
from server.adapters.imaging.png_file import MAX_CHUNKS

_SIGNATURE_BYTES: Final = 8
_PICTURE: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_SRGB: Final = {b"sRGB": 1, b"gAMA": 4, b"pHYs": 9}
"""Chunks that say what is so without them, or nothing of a person; their bytes."""
_GAMMA: Final = (45455).to_bytes(4)
_MANIFEST: Final = b"caBX"
_XMP_KEY: Final = b"XML:com.adobe.xmp"
_MAX_TEXT_BYTES: Final = 2**20
_STEP_BYTES: Final = 2**20
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def size(data: bytes) -> tuple[int, int]:
    """Return width and height by the header. Raises struct.error if there is none."""
    return struct.unpack(">8x4x4xII", data[:24])


def strip(data: bytes) -> Stripped | None:
    """Return the file without metadata; None if its pixels hide more than pixels.

    Then only a new encoding helps; a damaged file is the decoder's to refuse. Inflates
    the pixels: the size must have been judged.
    """
    kept, unchanged = bytearray(data[:_SIGNATURE_BYTES]), bytearray(data[:_SIGNATURE_BYTES])
    manifest, text, pixels, header, ended = b"", b"", [], b"", False
    for name, begin, end in _chunks(data):
        content = data[begin + 8 : end - 4]
        if zlib.crc32(data[begin + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            return None
        if name in _PICTURE or (len(content) == _SRGB.get(name) and (name != b"gAMA" or content == _GAMMA)):
            kept += data[begin:end]
            unchanged += data[begin:end]
        elif name == _MANIFEST:
            manifest += content
            unchanged += data[begin:end]
        elif name in (b"iTXt", b"zTXt"):
            text += _unpacked(name, content)
        if name == b"IHDR":
            header = content
        elif name == b"IDAT":
            pixels.append(content)
        elif name == b"IEND":
            ended = not content
            break
    if not ended or len(header) != 13 or not _is_exact(pixels, header):
        return None
    return Stripped(data=bytes(kept), manifest=manifest, is_whole=unchanged == data, text=text)


def mark(data: bytes, packet: bytes) -> bytes:
    """Return the file with an XMP packet behind its header."""
    content = _XMP_KEY + b"\0\0\0\0\0" + packet
    at = _SIGNATURE_BYTES + 25
    return data[:at] + _chunk(b"iTXt", content) + data[at:]


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = _SIGNATURE_BYTES
    for _ in range(MAX_CHUNKS):
        if len(data) - at < 12:
            return
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        yield name, at, end
        at = end


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _is_exact(pixels: list[bytes], header: bytes) -> bool:
    """Return whether the pixels fill the picture, and nothing stands behind them."""
    width, height, depth, colour, interlaced = *struct.unpack_from(">IIBB", header), header[12]
    row = 1 + (width * _CHANNELS.get(colour, 0) * depth + 7) // 8
    most = height * row if not interlaced else 2 * height * row + 7 * height
    unpacking, count = zlib.decompressobj(), 0
    for piece in pixels:
        left = piece
        while left and not unpacking.eof:
            try:
                count += len(unpacking.decompress(left, _STEP_BYTES))
            except zlib.error:
                return False
            if count > most:
                return False
            left = unpacking.unconsumed_tail
        if unpacking.unused_data or (left and unpacking.eof):
            return False
    while not unpacking.eof and (more := unpacking.decompress(b"", _STEP_BYTES)):
        count += len(more)
    return unpacking.eof and (count == most or bool(interlaced))


def _unpacked(name: bytes, content: bytes) -> bytes:
    """Return a compressed text, as much of it as may say where the picture is from."""
    _, _, rest = content.partition(b"\0")
    if name == b"iTXt":
        if rest[:1] != b"\1":
            return b""
        rest = rest[2:].split(b"\0", 2)[-1]
    else:
        rest = rest[1:]
    try:
        return zlib.decompressobj().decompress(rest, _MAX_TEXT_BYTES)
    except zlib.error:
        return b""
