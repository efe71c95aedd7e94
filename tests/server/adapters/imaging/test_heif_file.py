"""The colours that boxes of an AVIF or HEIF give; broken boxes give none."""

from __future__ import annotations

import struct

import pytest

from server.adapters.imaging.heif_file import heif_colours, is_cut
from server.adapters.imaging.parts import CodePoints


def box(name: bytes, *content: bytes) -> bytes:
    whole = b"".join(content)
    return struct.pack(">I", len(whole) + 8) + name + whole


def nclx(primaries: int, transfer: int) -> bytes:
    return box(b"colr", b"nclx" + struct.pack(">HHHB", primaries, transfer, 0, 128))


def light(most: int) -> bytes:
    return box(b"clli", struct.pack(">HH", most, most // 4))


def heif(properties: list[bytes], associations: dict[int, list[int]], primary: int = 1, wide: bool = False) -> bytes:
    """Return a file of boxes without pictures; ``associations`` count from 1."""
    size = ">H" if wide else ">B"
    table = b"".join(
        struct.pack(">HB", item, len(numbers)) + b"".join(struct.pack(size, number) for number in numbers)
        for item, numbers in associations.items()
    )
    ipma = box(b"ipma", bytes((0, 0, 0, wide)), struct.pack(">I", len(associations)), table)
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(
        b"meta",
        bytes(4),
        box(b"pitm", bytes(4), struct.pack(">H", primary)),
        box(b"iprp", box(b"ipco", *properties), ipma),
    )


@pytest.mark.parametrize("wide", [False, True])
def test_colours_are_those_of_the_primary_item(wide: bool) -> None:
    """Another item's numbers (a gain map's, a thumbnail's) are not taken."""
    data = heif([nclx(1, 8), box(b"ispe", bytes(12)), nclx(9, 16), light(400)], {2: [1, 2], 7: [2, 3, 4]}, 7, wide)
    assert heif_colours(data) == (CodePoints(9, 16, 400.0),)


def test_colours_without_association_are_the_first() -> None:
    """A derived picture (a grid) may leave its colours to its tiles."""
    assert heif_colours(heif([nclx(12, 13)], {2: [1]}, 1)) == (CodePoints(12, 13),)


def test_profile_gives_no_numbers() -> None:
    """An ICC profile in the box is the decoder's to read."""
    assert heif_colours(heif([box(b"colr", b"prof" + bytes(20))], {1: [1]})) == ()


def test_broken_boxes_give_no_colours() -> None:
    """Any prefix and any wrong length gives colours or none, and never an error."""
    data = heif([nclx(9, 16), light(400)], {1: [1, 2]})
    for length in range(len(data)):
        assert len(heif_colours(data[:length])) <= 1
    for at in range(len(data)):
        for value in (0, 1, 255):
            assert len(heif_colours(data[:at] + bytes((value,)) + data[at + 1 :])) <= 1


def test_endless_boxes_are_given_up() -> None:
    """A million empty boxes take no time."""
    assert heif_colours(box(b"meta", bytes(4), box(b"free") * 1_000_000)) == ()


def test_cut_file_is_told_from_whole_one() -> None:
    """A file that ends before its last box does is cut."""
    data = heif([nclx(1, 13)], {1: [1]}) + box(b"mdat", bytes(100))
    assert not is_cut(data)
    assert is_cut(data[:-1])
    assert not is_cut(data[:-108])
