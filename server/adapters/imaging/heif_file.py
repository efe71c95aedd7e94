"""AVIF and HEIF: the colours that the boxes of the file give.

ISO/IEC 14496-12 (boxes) and 23008-12 (items and their properties). An ICC profile is
the decoder's to find, and so are the turns (irot, imir); only the numbers of an
``nclx`` box are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from server.adapters.imaging.parts import SRGB, CodePoints

_MAX_BOXES: Final = 4096
"""Boxes that are looked at in one level of a file."""
_MAX_ITEMS: Final = 65_536
"""Items whose properties are looked at; a phone's picture of tiles has 50."""
_FULL_BOX: Final = 4
"""Version and flags, before the content of some boxes."""
_NCLX_BYTES: Final = 11
UNSPECIFIED: Final = 2
"""The number of ITU-T H.273 for "unspecified"."""
_LIKE_SRGB: Final = frozenset({1, UNSPECIFIED, 6, 11, 14, 15})
"""Transfers that browsers show as sRGB's here: encoders of films write them."""

Box = tuple[bytes, int, int]
"""Name of a box, and where its content begins and ends."""


def boxes(data: bytes, begin: int, end: int) -> Iterator[Box]:
    """Yield the boxes between two offsets; a box that ends beyond ends at ``end``."""
    for _ in range(_MAX_BOXES):
        if end - begin < 8:
            return
        size, content = int.from_bytes(data[begin : begin + 4]), begin + 8
        if size == 1:
            size, content = int.from_bytes(data[begin + 8 : begin + 16]), begin + 16
        last = end if size == 0 else begin + size
        if last < content:
            return
        yield data[begin + 4 : begin + 8], content, min(last, end)
        begin = last


def is_cut(data: bytes) -> bool:
    """Return whether the file ends before its last box does."""
    at = 0
    for _ in range(_MAX_BOXES):
        if len(data) - at < 8:
            return False
        size = int.from_bytes(data[at : at + 4])
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        if size < 8:
            return False
        at += size
        if at > len(data):
            return True
    return False


def heif_colours(data: bytes) -> tuple[CodePoints, ...]:
    """Return the colours of the primary item, if the file gives any."""
    try:
        found = _primary_colours(data)
    except IndexError:  # a box that ends early; the decoder judges the file
        found = None
    if found is None:
        return ()
    primaries = SRGB.primaries if found.primaries == UNSPECIFIED else found.primaries
    transfer = SRGB.transfer if found.transfer in _LIKE_SRGB else found.transfer
    return (found._replace(primaries=primaries, transfer=transfer),)


def _primary_colours(data: bytes) -> CodePoints | None:
    meta = _find(data, (0, len(data)), b"meta", _FULL_BOX)
    properties = meta and _find(data, meta, b"iprp")
    container = properties and _find(data, properties, b"ipco")
    if not meta or not properties or not container:
        return None
    found = dict(enumerate(boxes(data, *container), 1))
    own = [found[number] for number in _associated(data, meta, properties) if number in found]
    own = own or list(found.values())
    numbers = next((begin for name, begin, end in own if _is_nclx(data, name, begin, end)), None)
    if numbers is None:
        return None
    light = next((begin for name, begin, end in own if name == b"clli" and end - begin == 4), None)
    peak = int.from_bytes(data[light : light + 2]) if light is not None else 0
    points = CodePoints(*(int.from_bytes(data[numbers + at : numbers + at + 2]) for at in (4, 6)))
    return points._replace(peak=float(peak)) if peak else points


def _is_nclx(data: bytes, name: bytes, begin: int, end: int) -> bool:
    return name == b"colr" and data[begin : begin + 4] == b"nclx" and end - begin >= _NCLX_BYTES


def _find(data: bytes, where: tuple[int, int], name: bytes, skip: int = 0) -> tuple[int, int] | None:
    return next(((begin + skip, end) for box, begin, end in boxes(data, *where) if box == name), None)


def _associated(data: bytes, meta: tuple[int, int], properties: tuple[int, int]) -> list[int]:
    """Return the numbers of the properties of the primary item (pitm, ipma)."""
    primary, table = _find(data, meta, b"pitm"), _find(data, properties, b"ipma")
    if not primary or not table:
        return []
    at = primary[0]
    item = int.from_bytes(data[at + 4 : at + (6 if data[at] == 0 else 8)])
    at, end = table
    version, wide = data[at], data[at + 3] & 1
    entries, at = int.from_bytes(data[at + 4 : at + 8]), at + 8
    for _ in range(min(entries, _MAX_ITEMS)):
        if at >= end:
            break
        id_bytes = 2 if version < 1 else 4
        this, count = int.from_bytes(data[at : at + id_bytes]), data[at + id_bytes]
        at += id_bytes + 1
        size = 2 if wide else 1
        if this != item:
            at += count * size
            continue
        return [
            int.from_bytes(data[n : n + size]) & (0x7FFF if wide else 0x7F) for n in range(at, at + count * size, size)
        ]
    return []
