"""WebM as an output: elements of picture and sound stay, others become empty space.

RFC 8794 (EBML), RFC 9559 (Matroska), and what WebM takes of it. Cues find clusters by
their place in the segment, so nothing may move: an element that must go becomes a Void
of the same size. The film is not decoded; its structure must be whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from server.adapters.imaging.outputs.provenance import Stripped
from tryon.protocol.errors import Unprocessable

MAX_ELEMENTS: Final = 200_000
"""Elements of a file, at most: a film of a minute has 2,000."""
_MAX_COMMENTS: Final = 1000

_EBML, _SEGMENT, _CLUSTER, _INFO, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1549A966, 0x1654AE6B
_SEEK_HEAD, _SEEK, _SEEK_ID, _CUES, _TAGS, _VOID = 0x114D9B74, 0x4DBB, 0x53AB, 0x1C53BB6B, 0x1254C367, 0xEC
_TRACK, _VIDEO, _AUDIO = 0xAE, 0xE0, 0xE1
_TYPE, _CODEC, _PRIVATE, _LANGUAGES = 0x83, 0x86, 0x63A2, (0x22B59C, 0x22B59D)
_APPS: Final = (0x4D80, 0x5741)
_WIDTH, _HEIGHT = 0xB0, 0xBA
_DOC_TYPE: Final = 0x4282
_BLOCKS: Final = frozenset({0xA3, 0xA0})

_CHILDREN: Final[Mapping[int, frozenset[int]]] = {
    parent: frozenset(children)
    for parent, children in {
        _EBML: (0x4286, 0x42F7, 0x42F2, 0x42F3, _DOC_TYPE, 0x4287, 0x4285),
        _SEGMENT: (_SEEK_HEAD, _INFO, _TRACKS, _CLUSTER, _CUES),
        _SEEK_HEAD: (_SEEK,),
        _INFO: (0x2AD7B1, 0x4489, *_APPS),
        _TRACKS: (_TRACK,),
        _TRACK: (
            0xD7, 0x73C5, _TYPE, 0xB9, 0x88, 0x55AA, 0x9C, 0x6DE7, 0x6DF8, 0x23E383, 0x23314F, 0x55EE, *_LANGUAGES,
            _CODEC, _PRIVATE, 0x56AA, 0x56BB, _VIDEO, _AUDIO,
        ),
        _VIDEO: (
            _WIDTH, _HEIGHT, 0x54B0, 0x54BA, 0x54B2, 0x54B3, 0x9A, 0x9D, 0x53B8, 0x53C0, 0x54AA, 0x54BB, 0x54CC,
            0x54DD, 0x55B0, 0x7670,
        ),
        _AUDIO: (0xB5, 0x78B5, 0x9F, 0x6264),
        _CLUSTER: (0xE7, 0xA7, 0xAB, *_BLOCKS),
    }.items()
}  # fmt: skip
"""The elements that stay, by the element they stand in."""
_CODECS: Final = frozenset({b"V_VP8", b"V_VP9", b"V_AV1", b"A_OPUS", b"A_VORBIS"})
_USUAL_APP: Final = re.compile(rb"(Lavf[\d.]*|Chrome|QTmuxingAppLibWebM-[\d.]+|libwebm-[\d.]+)?\0*")
_LANGUAGE: Final = re.compile(rb"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,3}\0*")
_SEEKABLE: Final = frozenset(each.to_bytes(4) for each in (_INFO, _TRACKS, _CUES, _CLUSTER))


class _Element(NamedTuple):
    id: int
    begin: int
    content: int
    end: int
    is_open: bool
    """Whether its size is not given: it ends where the next of its level begins."""


def strip(data: bytes) -> Stripped:
    """Return the film without metadata. Raises Unprocessable: it is broken."""
    reading = _Reading(data)
    segment = reading.read()
    width, height = reading.judge()
    # Eight bytes of size, so that a mark may follow. Nothing moves in the segment.
    body = bytes(reading.out[segment.content : segment.end])
    return Stripped(data=bytes(reading.out[: segment.begin]) + _element(_SEGMENT, body), width=width, height=height)


def mark(data: bytes, address: str) -> bytes:
    """Return a stripped film with a tag that states the digital source type."""
    name, text = _element(0x45A3, b"DIGITAL_SOURCE_TYPE"), _element(0x4487, address.encode())
    tags = _element(_TAGS, _element(0x7373, _element(0x63C0, b"") + _element(0x67C8, name + text)))
    begin = data.index(_SEGMENT.to_bytes(4)) + 12
    return data[: begin - 12] + _element(_SEGMENT, data[begin:] + tags)


def _element(id: int, content: bytes) -> bytes:
    return id.to_bytes((id.bit_length() + 7) // 8) + (len(content) | 1 << 56).to_bytes(8) + content


def _broken(why: str) -> Unprocessable:
    return Unprocessable("unreadable_image", f"The film is damaged: {why}.")


class _Reading:
    """One walk over the elements; ``out`` is the film as it is left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.out = bytearray(data)
        self._elements = 0
        self._types: list[int] = []
        self._codecs: list[bytes] = []
        self._sizes: dict[int, int] = {}
        self._blocks = 0

    def read(self) -> _Element:
        """Walk over the file, and return its segment."""
        level = self._inside(0, len(self._data))
        head = next(level, None)
        if head is None or head.id != _EBML or head.is_open or head.end - head.content > 256:
            raise _broken("it does not begin with its type")
        self._walk(head)
        kinds = [self._data[e.content : e.end] for e in self._inside(head.content, head.end) if e.id == _DOC_TYPE]
        if [kind.rstrip(b"\0") for kind in kinds] != [b"webm"]:
            raise _broken("its type is not webm")
        segment = next(level, None)
        if segment is None or segment.id != _SEGMENT:
            raise _broken("it has no segment")
        self._walk(segment)
        return segment

    def judge(self) -> tuple[int, int]:
        """Return width and height of the film; raise Unprocessable if it is none."""
        if 1 not in self._types or not set(self._types) <= {1, 2}:
            raise _broken("it has no track of pictures, or one that is neither picture nor sound")
        if not self._codecs or not _CODECS.issuperset(self._codecs):
            raise _broken("its codec is not known here")
        if not self._blocks:
            raise _broken("it has no pictures")
        return self._sizes.get(_WIDTH, 0), self._sizes.get(_HEIGHT, 0)

    def _inside(self, begin: int, end: int, level: int = 0) -> Iterator[_Element]:
        """Yield the elements between two places; of an open cluster, its own alone."""
        while begin < end:
            self._elements += 1
            if self._elements > MAX_ELEMENTS:
                raise _broken("it has too many parts")
            id, at = self._number(begin, end, keep=True)
            if level == _CLUSTER and id in _CHILDREN[_SEGMENT] | {_TAGS}:
                return
            size, content = self._number(at, end)
            is_open = size == (1 << 7 * (content - at)) - 1
            if is_open and id not in (_SEGMENT, _CLUSTER):
                raise _broken("a part has no size")
            last = end if is_open else content + size
            if last > end:
                raise _broken("a part is cut off")
            element = _Element(id, begin, content, last, is_open)
            if is_open and id == _CLUSTER:
                inner = [each.end for each in self._inside(content, end, _CLUSTER)]
                element = element._replace(end=inner[-1] if inner else content)
            yield element
            begin = element.end

    def _number(self, at: int, end: int, *, keep: bool = False) -> tuple[int, int]:
        """Return a number of variable length, and the place behind it.

        ``keep``: with the marker of its length, as ids are written.
        """
        first = self._data[at] if at < end else 0
        length = 9 - first.bit_length()
        if not first or at + length > end or (keep and length > 4):
            raise _broken("a part is cut off")
        value = int.from_bytes(self._data[at : at + length])
        return (value if keep else value & ~(1 << 7 * length)), at + length

    def _walk(self, parent: _Element) -> None:
        for element in self._inside(parent.content, parent.end):
            if element.id not in _CHILDREN[parent.id]:
                self._empty(element)
            elif element.id in _CHILDREN:
                self._walk(element)
            else:
                self._read(element)

    def _empty(self, element: _Element) -> None:
        """Make an element empty space."""
        size = element.end - element.begin
        length = (0x80 | size - 2).to_bytes() if size < 129 else (size - 9 | 1 << 56).to_bytes(8)
        head = bytes((_VOID,)) + length
        self.out[element.begin : element.end] = head + bytes(size - len(head))

    def _read(self, element: _Element) -> None:
        content = self._data[element.content : element.end]
        if element.id in _BLOCKS:
            self._blocks += 1
        elif element.id == _TYPE:
            self._types.append(int.from_bytes(content))
        elif element.id == _CODEC:
            self._codecs.append(content.rstrip(b"\0"))
        elif element.id in (_WIDTH, _HEIGHT):
            self._sizes.setdefault(element.id, int.from_bytes(content))
        elif element.id in _APPS and not _USUAL_APP.fullmatch(content):
            self.out[element.content : element.end] = bytes(len(content))
        elif element.id in _LANGUAGES and not _LANGUAGE.fullmatch(content):
            self._empty(element)
        elif element.id == _PRIVATE and b"\3vorbis" in content:
            self._blank_comments(element.content + content.index(b"\3vorbis") + 7, element.end)
        elif element.id == _SEEK and not any(each in content for each in _SEEKABLE):
            self._empty(element)

    def _blank_comments(self, at: int, end: int) -> None:
        """Blank the texts of Vorbis's comment header: maker, then each comment."""
        at = self._blank_text(at, end)
        count = int.from_bytes(self._data[at : at + 4], "little")
        at += 4
        if count > _MAX_COMMENTS:
            raise _broken("it has too many parts")
        for _ in range(count):
            at = self._blank_text(at, end)

    def _blank_text(self, at: int, end: int) -> int:
        """Blank a text behind its length, and return the place behind it."""
        size = int.from_bytes(self._data[at : at + 4], "little")
        if at + 4 + size > end:
            raise _broken("the header of its sound is cut off")
        self.out[at + 4 : at + 4 + size] = b" " * size
        return at + 4 + size
