"""MP4 as an output: boxes of picture and sound stay, all others become empty space.

ISO/IEC 14496-12. Samples are found by their offset in the file, so nothing may move: a
box that must go is renamed ``free`` and filled with zeros. Names and times in the boxes
that stay are overwritten. The film itself is not decoded; its structure must be whole:
boxes that nest exactly, tracks of picture and sound of known codecs, and samples that
lie within the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from server.adapters.imaging.outputs.provenance import Stripped
from tryon.protocol.errors import Unprocessable

MAX_BOXES: Final = 50_000
"""Boxes of a file, at most: a fragment of a second has ten."""
MAX_SAMPLES: Final = 1_000_000
"""Entries of a table, at most, each 36 bytes while it is read: sound of five hours."""

_CONTAINERS: Final[Mapping[bytes, frozenset[bytes]]] = {
    name: frozenset(children.split())
    for name, children in {
        b"": b"ftyp styp moov mdat moof sidx ssix mfra pdin",
        b"moov": b"mvhd trak mvex",
        b"trak": b"tkhd mdia edts tref",
        b"edts": b"elst",
        b"mdia": b"mdhd hdlr minf elng",
        b"minf": b"vmhd smhd dinf stbl",
        b"dinf": b"dref",
        b"stbl": b"stsd stts ctts cslg stsc stsz stz2 stco co64 stss sdtp sbgp sgpd stsh padb subs",
        b"mvex": b"mehd trex leva",
        b"moof": b"mfhd traf",
        b"traf": b"tfhd trun tfdt sdtp sbgp sgpd subs",
        b"mfra": b"tfra mfro",
    }.items()
}
"""The boxes that stay, by the box they stand in; "" is the file."""
_ENTRY: Final = frozenset(
    b"avcC hvcC av1C vpcC esds dOps dac3 dec3 dfLa colr pasp btrt fiel clap mdcv clli chnl SmDm CoLL".split()
)
"""Boxes of a sample entry that stay."""
_VIDEO: Final = frozenset({b"avc1", b"avc3", b"hvc1", b"hev1", b"av01", b"vp08", b"vp09", b"mp4v"})
_SOUND: Final = frozenset({b"mp4a", b"Opus", b"ac-3", b"ec-3", b"fLaC", b".mp3"})
_VIDEO_ENTRY_BYTES: Final = 86
_SOUND_ENTRY_BYTES: Final = 36
_MAX_TYPE_BYTES: Final = 256
_MANIFEST: Final = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_XMP: Final = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_USUAL_NAME: Final = re.compile(
    rb"(Video|Sound|Core Media Video|Core Media Audio|GPAC ISO (Video|Audio) )?(Handler)?\0*"
)
_USUAL_ENCODER: Final = re.compile(rb".(Lavc[\d.]+ [a-z0-9_-]+|AVC Coding|HEVC Coding|AOM Coding|VPC Coding)?\0*", re.S)


class _Box(NamedTuple):
    name: bytes
    begin: int
    content: int
    end: int


def strip(data: bytes) -> Stripped:
    """Return the film without metadata. Raises Unprocessable: it is broken."""
    reading = _Reading(data)
    reading.read()
    width, height = reading.judge()
    whole = bytes(reading.out) == data
    manifest = b"".join(data[box.content : box.end] for box in reading.manifests)
    for box in reading.manifests:
        reading.free(box)
    return Stripped(data=bytes(reading.out), width=width, height=height, manifest=manifest, is_whole=whole)


def mark(data: bytes, packet: bytes) -> bytes:
    """Return the film with an XMP packet behind all that it had."""
    return data + struct.pack(">I4s", 24 + len(packet), b"uuid") + _XMP + packet


def _broken(why: str) -> Unprocessable:
    return Unprocessable("unreadable_image", f"The film is damaged: {why}.")


class _Reading:
    """One walk over the boxes; ``out`` is the film as it is left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.out = bytearray(data)
        self.manifests: list[_Box] = []
        self._boxes = 0
        self._names: list[bytes] = []
        self._handlers: list[bytes] = []
        self._sizes: list[tuple[int, int]] = []
        self._turned: list[bool] = []
        self._samples = 0

    def read(self) -> None:
        self._walk(b"", 0, len(self._data))

    def judge(self) -> tuple[int, int]:
        """Return width and height of the film; raise Unprocessable if it is none."""
        names = self._names
        if not names or names[0] != b"ftyp":
            raise _broken("it does not begin with its type")
        if names.count(b"moov") != 1 or b"mdat" not in names:
            raise _broken("it has no description or no pictures")
        if b"vide" not in self._handlers or not self._sizes:
            raise _broken("it has no track of pictures")
        if not self._samples and b"trun" not in names:
            raise _broken("it has no samples")
        width, height = self._sizes[0]
        return (height, width) if any(self._turned) else (width, height)

    def free(self, box: _Box) -> None:
        """Make a box empty space."""
        self.out[box.begin + 4 : box.begin + 8] = b"free"
        self.out[box.content : box.end] = bytes(box.end - box.content)

    def _type(self, box: _Box) -> None:
        if box.end - box.content > _MAX_TYPE_BYTES:
            raise _broken("its type is too long")

    def _walk(self, inside: bytes, begin: int, end: int) -> None:
        for box in self._inside(begin, end, last_may_be_open=not inside):
            if box.name == b"uuid" and self._data[box.content : box.content + 16] == _MANIFEST and not inside:
                self.manifests.append(box)
            elif box.name not in _CONTAINERS[inside]:
                self.free(box)
            else:
                self._names.append(box.name)
                self._enter(box)

    def _inside(self, begin: int, end: int, *, last_may_be_open: bool = False) -> Iterator[_Box]:
        data = self._data
        while begin < end:
            self._boxes += 1
            if self._boxes > MAX_BOXES:
                raise _broken("it has too many parts")
            if end - begin < 8:
                raise _broken("a part is cut off")
            size, name = struct.unpack_from(">I4s", data, begin)
            content = begin + 8
            if size == 1 and end - begin >= 16:
                size, content = int.from_bytes(data[begin + 8 : begin + 16]), begin + 16
            elif size == 0 and last_may_be_open:
                size = end - begin
                struct.pack_into(">I", self.out, begin, size)  # something may follow
            if begin + size < content or begin + size > end:
                raise _broken("a part is cut off")
            yield _Box(name, begin, content, begin + size)
            begin += size

    def _enter(self, box: _Box) -> None:
        if box.name in _CONTAINERS:
            self._walk(box.name, box.content, box.end)
        elif (read := _READERS.get(box.name)) is not None:
            try:
                read(self, box)
            except (struct.error, IndexError):
                raise _broken(f"its {box.name.decode('latin-1')} is cut off") from None

    # -- boxes that are read -----------------------------------------------------------

    def _header(self, box: _Box) -> None:
        """Blank the times of mvhd, tkhd or mdhd; note how tkhd turns the picture."""
        size = 16 if self._data[box.content] == 1 else 8
        if box.end - box.content < 4 + size:
            raise IndexError
        self.out[box.content + 4 : box.content + 4 + size] = bytes(size)
        if box.name == b"tkhd":
            across, _, _, _, down = struct.unpack_from(">5i", self._data, box.end - 44)
            self._turned.append(across == 0 and down == 0)

    def _handler(self, box: _Box) -> None:
        kind = self._data[box.content + 8 : box.content + 12]
        if kind not in (b"vide", b"soun"):
            raise _broken("it has a track that is neither picture nor sound")
        self._handlers.append(kind)
        self._blank(box.content + 24, box.end, _USUAL_NAME)

    def _blank(self, begin: int, end: int, usual: re.Pattern[bytes]) -> None:
        """Blank a text, unless it is one that says nothing of a person."""
        if not usual.fullmatch(self._data, begin, end):
            self.out[begin:end] = bytes(max(0, end - begin))

    def _entries(self, box: _Box) -> None:
        """Read the sample entries: codec, size of the picture."""
        for entry in self._inside(box.content + 8, box.end):
            if entry.name in _VIDEO:
                self._sizes.append(struct.unpack_from(">HH", self._data, entry.begin + 32))
                self._blank(entry.begin + 50, entry.begin + 82, _USUAL_ENCODER)
                fixed = _VIDEO_ENTRY_BYTES
            elif entry.name in _SOUND:
                fixed = _SOUND_ENTRY_BYTES
            else:
                raise _broken("its codec is not known here")
            if entry.end - entry.begin < fixed:
                raise IndexError
            if entry.name in _SOUND and self._data[entry.begin + 16 : entry.begin + 18] != b"\0\0":
                raise _broken("its sound is described as QuickTime's")
            for part in self._inside(entry.begin + fixed, entry.end):
                if part.name not in _ENTRY:
                    self.free(part)

    def _references(self, box: _Box) -> None:
        for reference in self._inside(box.content + 8, box.end):
            if not self._data[reference.content + 3] & 1:
                raise _broken("its samples lie in another file")

    def _sample_sizes(self, box: _Box) -> None:
        each, count = struct.unpack_from(">II", self._data, box.content + 4)
        if each:
            total = each * count
        else:
            total = sum(struct.unpack_from(f">{self._fits(box, count, 12, 4)}I", self._data, box.content + 12))
        if total > len(self._data):
            raise _broken("it is cut off")
        self._samples += count

    def _offsets(self, box: _Box) -> None:
        (count,) = struct.unpack_from(">I", self._data, box.content + 4)
        size, letter = (8, "Q") if box.name == b"co64" else (4, "I")
        offsets = struct.unpack_from(f">{self._fits(box, count, 8, size)}{letter}", self._data, box.content + 8)
        if any(offset >= len(self._data) for offset in offsets):
            raise _broken("it is cut off")

    def _fits(self, box: _Box, count: int, begin: int, size: int) -> int:
        if box.content + begin + count * size > box.end:
            raise IndexError
        if count > MAX_SAMPLES:
            raise _broken("it has too many parts")
        return count


_READERS: Final = {
    b"ftyp": _Reading._type,
    b"styp": _Reading._type,
    b"mvhd": _Reading._header,
    b"tkhd": _Reading._header,
    b"mdhd": _Reading._header,
    b"hdlr": _Reading._handler,
    b"stsd": _Reading._entries,
    b"dref": _Reading._references,
    b"stsz": _Reading._sample_sizes,
    b"stco": _Reading._offsets,
    b"co64": _Reading._offsets,
}
