"""Files that are damaged on purpose: byte by byte, and piece by piece.

:func:`mutated` gives the file of a number. It depends on the seed and on the number
alone, so that a finding is repeated by its two numbers. Half of the mutations know the
container (segments of a JPEG, chunks of a PNG or WebP, boxes of an AVIF) and write
right lengths and checksums around what they change: they reach the decoders, where a
flipped bit would end at the checksum.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from testkit.originals import REFUSED, originals
from testkit.photos import png_chunk

EXTREMES: Final = (0, 1, 2, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Numbers at the edges of fields of one, two and four bytes."""
MAX_BYTES: Final = 200_000
"""Largest mutated file: pieces may be doubled again and again."""
REFUSED_SHARE: Final = 0.08
"""Share of the files of a kind that is refused by its first bytes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment, chunk or box; ``name`` is empty for bytes between them."""

    name: bytes
    body: bytes


def mutated(seed: int, number: int) -> tuple[str, bytes]:
    """Return the name of the original and the damaged file of this number."""
    chance = random.Random(f"{seed}/{number}")
    names = list(REFUSED) if chance.random() < REFUSED_SHARE else [name for name in originals() if name not in REFUSED]
    name = chance.choice(names)
    data = originals()[name]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        change = chance.choice(CHANGES)
        data = change(data, chance)[:MAX_BYTES]
    return name, data


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return bytes of no known container, changed in one to three places."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        data = chance.choice((_bytes_changed, _bytes_changed, _number_changed, _cut, _piece_of_bytes_moved))(
            data, chance
        )
    return data


# -- bytes -----------------------------------------------------------------------------


def _place(data: bytes, chance: random.Random) -> int:
    """Return a position, mostly near the beginning, where the structure is."""
    return chance.randrange(min(len(data), chance.choice((64, 512, len(data))))) if data else 0


def _bytes_changed(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = _place(bytes(changed), chance)
        if chance.random() < 0.5 and changed:
            changed[at] ^= 1 << chance.randrange(8)
        else:
            changed[at : at + 1] = bytes((chance.randrange(256),))
    return bytes(changed)


def _number_changed(data: bytes, chance: random.Random) -> bytes:
    """Overwrite one, two or four bytes with a number at an edge, in either order."""
    at, width = _place(data, chance), chance.choice((1, 2, 4))
    value: int = chance.choice(EXTREMES) & (256**width - 1)
    return data[:at] + value.to_bytes(width, chance.choice(("big", "little"))) + data[at + width :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _piece_of_bytes_moved(data: bytes, chance: random.Random) -> bytes:
    """Delete, double or move up to 64 bytes."""
    at, size = _place(data, chance), chance.randrange(1, 64)
    piece, rest = data[at : at + size], data[:at] + data[at + size :]
    match chance.randrange(3):
        case 0:
            return rest
        case 1:
            return data[:at] + piece + data[at:]
        case _:
            to = chance.randrange(len(rest) + 1)
            return rest[:to] + piece + rest[to:]


def _joined(data: bytes, chance: random.Random) -> bytes:
    """Append another file, as polyglots do, or put its beginning first."""
    other = chance.choice(list(originals().values()))
    return data + other if chance.random() < 0.5 else other[: chance.randrange(1, 64)] + data


# -- pieces ----------------------------------------------------------------------------


def split(data: bytes) -> list[Piece] | None:
    """Return the pieces of a file, None for a container that is not known."""
    if data[:2] == b"\xff\xd8":
        return _segments(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_chunks(data)
    if data[:4] == b"RIFF":
        return _riff_chunks(data)
    if data[4:8] == b"ftyp":
        return _boxes(data)
    return None


def join(data: bytes, pieces: list[Piece]) -> bytes:
    """Return the file of these pieces, with right lengths and checksums.

    ``data``: the file that was split, of which the first bytes are kept.
    """
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd8" + b"".join(_segment(piece) for piece in pieces)
    if data[:4] == b"\x89PNG":
        return data[:8] + b"".join(png_chunk(piece.name, piece.body) if piece.name else piece.body for piece in pieces)
    if data[:4] == b"RIFF":
        body = data[8:12] + b"".join(
            piece.name + struct.pack("<I", len(piece.body)) + piece.body + b"\0" * (len(piece.body) % 2)
            if piece.name
            else piece.body
            for piece in pieces
        )
        return b"RIFF" + struct.pack("<I", len(body)) + body
    return b"".join(
        struct.pack(">I", len(piece.body) + 8) + piece.name + piece.body if piece.name else piece.body
        for piece in pieces
    )


def _segment(piece: Piece) -> bytes:
    if not piece.name:
        return piece.body
    return b"\xff" + piece.name + struct.pack(">H", min(len(piece.body) + 2, 65535)) + piece.body


def _segments(data: bytes) -> list[Piece]:
    """Return the segments up to each scan; a scan's coded bytes have no name."""
    pieces, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xD8, 0xD9):
        length = max(2, int.from_bytes(data[at + 2 : at + 4]))
        pieces.append(Piece(data[at + 1 : at + 2], data[at + 4 : at + 2 + length]))
        at += 2 + length
        if pieces[-1].name == b"\xda":
            end = at
            while end + 1 < len(data) and not (
                data[end] == 0xFF and data[end + 1] and not 0xD0 <= data[end + 1] <= 0xD7
            ):
                end += 1
            pieces.append(Piece(b"", data[at:end]))
            at = end
    pieces.append(Piece(b"", data[at:]))
    return pieces


def _png_chunks(data: bytes) -> list[Piece]:
    pieces, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if at + 12 + length > len(data):
            break
        pieces.append(Piece(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return [*pieces, Piece(b"", data[at:])]


def _riff_chunks(data: bytes) -> list[Piece]:
    pieces, at = [], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        pieces.append(Piece(data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return [*pieces, Piece(b"", data[at:])]


def _boxes(data: bytes) -> list[Piece]:
    pieces, at = [], 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if not 8 <= length <= len(data) - at:
            break
        pieces.append(Piece(data[at + 4 : at + 8], data[at + 8 : at + length]))
        at += length
    return [*pieces, Piece(b"", data[at:])]


def _pieces_changed(data: bytes, chance: random.Random) -> bytes:
    """Drop, double, swap or damage a piece, or take one over from another file."""
    pieces = split(data)
    if not pieces:
        return _bytes_changed(data, chance)
    at = chance.randrange(len(pieces))
    match chance.randrange(6):
        case 0:
            del pieces[at]
        case 1:
            pieces[at:at] = [pieces[at]] * chance.choice((1, 1, 2, 30))
        case 2:
            to = chance.randrange(len(pieces))
            pieces[at], pieces[to] = pieces[to], pieces[at]
        case 3:
            pieces.insert(at, _foreign_piece(data, chance))
        case _:
            piece = pieces[at]
            change = chance.choice((_bytes_changed, _number_changed, _cut, _piece_of_bytes_moved))
            pieces[at] = Piece(piece.name, change(piece.body, chance))
    return join(data, pieces)


def _foreign_piece(data: bytes, chance: random.Random) -> Piece:
    kin = [pieces for each in originals().values() if each[:4] == data[:4] and (pieces := split(each))]
    return chance.choice(chance.choice(kin)) if kin else Piece(b"", b"\0" * chance.randrange(64))


def _length_lied(data: bytes, chance: random.Random) -> bytes:
    """Write a wrong length before a piece whose bytes stay as they are."""
    pieces = split(data)
    if not pieces or not (named := [piece for piece in pieces if piece.name]):
        return _number_changed(data, chance)
    name = chance.choice(named).name
    if data[:2] == b"\xff\xd8":
        return _overwritten(data, data.find(b"\xff" + name) + 2, 2, chance)
    at = data.find(name)
    return _overwritten(data, at + 4 if data[:4] == b"RIFF" else at - 4, 4, chance)


def _size_lied(data: bytes, chance: random.Random) -> bytes:
    """Write another width or height into the header, with a right checksum."""
    pieces = split(data) or []
    for number, piece in enumerate(pieces):
        at, width = SIZE_FIELDS.get(piece.name, (-1, 0))
        if at >= 0 and len(piece.body) >= at + 2 * width:
            at += width * chance.randrange(2)
            size = chance.choice((*EXTREMES, 65, 100, 1000, 5000)) & (256**width - 1)
            body = piece.body[:at] + size.to_bytes(width, _order(data)) + piece.body[at + width :]
            pieces[number] = Piece(piece.name, body)
            return join(data, pieces)
    if (at := data.find(b"ispe")) >= 0:  # ISO/IEC 23008-12, 6.5.3: width and height after version and flags
        return _overwritten(data, at + 8 + 4 * chance.randrange(2), 4, chance)
    return _number_changed(data, chance)


SIZE_FIELDS: Final[Mapping[bytes, tuple[int, int]]] = {
    b"IHDR": (0, 4),
    b"fcTL": (4, 4),
    b"VP8X": (4, 3),
    b"VP8 ": (6, 2),
    b"ANMF": (6, 3),
    **dict.fromkeys((b"\xc0", b"\xc1", b"\xc2", b"\xc9"), (1, 2)),
}
"""Offset and width of the first of the two size fields of a piece."""


def _overwritten(data: bytes, at: int, width: int, chance: random.Random) -> bytes:
    at = max(0, at)
    value: int = chance.choice(EXTREMES) & (256**width - 1)
    return data[:at] + value.to_bytes(width, _order(data)) + data[at + width :]


def _order(data: bytes) -> Literal["little", "big"]:
    return "little" if data[:4] == b"RIFF" else "big"


CHANGES: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    _bytes_changed, _bytes_changed, _number_changed, _cut, _piece_of_bytes_moved, _joined,
    _pieces_changed, _pieces_changed, _pieces_changed, _pieces_changed, _length_lied, _size_lied,
)  # fmt: skip
