"""JPEG: the segments that carry the picture, and those that say what it means.

ITU-T T.81 annex B. The decoder gets the tables, frames and scans, JFIF's and Adobe's
application segments (they decide about YCbCr and YCCK), and an end marker. Not what
follows it: the further pictures of an MPO, the film of a motion photo, a vendor's
trailer. Some phones (Samsung panoramas, Sony) write no end marker before the trailer.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from server.adapters.imaging.exif import UPRIGHT, orientation
from server.adapters.imaging.parts import CUT_OFF, MAX_PROFILE_BYTES, Parts
from tryon.protocol.errors import Unprocessable, UnsupportedMedia

MAX_SCANS: Final = 64
"""Scans of a progressive JPEG, at most; encoders write about 14.

A scan may be 40 bytes and costs 16 ms at 40 MP: 10 MB of them would take an hour.
"""
MAX_SEGMENTS: Final = 4096
"""Segments of a JPEG, at most; one of 10 MB in the largest segments has 160."""
END: Final = b"\xff\xd9"
OTHER_ENDS: Final = tuple(
    b"".join(bits * 100 + bytes((0xFF, 0xD0 + restart)) for restart in range(8)) + END for bits in (b"\x55", b"\xaa")
)
"""Ends that decode to other pixels than :data:`END` wherever pixels are missing.

They have the eight restart markers, after any of which a scan may go on.
"""

_MARKER: Final = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])", re.DOTALL)
"""Any marker but TEM and RSTn; FF 00 is data, FF FF is fill (T.81 B.1.1)."""
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_SCAN_MARKER: Final = b"\xff\xda"
_EXIF, _PROFILE, _ADOBE, _JFIF = 0xE1, 0xE2, 0xEE, 0xE0
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TABLES: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDD})  # DHT, DAC, DQT, DRI
_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})
_REFUSED: Final = {
    0xC3: "Lossless JPEG", 0xCB: "Lossless JPEG",
    0xC5: "Hierarchical JPEG", 0xC6: "Hierarchical JPEG", 0xC7: "Hierarchical JPEG",
    0xCD: "Hierarchical JPEG", 0xCE: "Hierarchical JPEG", 0xCF: "Hierarchical JPEG",
}  # fmt: skip
_PROFILE_NAME: Final = b"ICC_PROFILE\0"
_COEFFICIENTS: Final = 64
_BITS, _LONG_BITS = 8, 12
"""Bits of a sample that T.81 knows in a JPEG that loses some; others are damage."""


class _Frame(NamedTuple):
    marker: int
    components: frozenset[int]


def read_jpeg(data: bytes) -> Parts:
    """Return the parts of a JPEG.

    Raises UnsupportedMedia for a process that no decoder here knows, Unprocessable if
    no picture is in it or too many scans are.
    """
    reading = _Reading(data)
    complete = reading.read()
    rest = b"" if complete else reading.rest()
    if reading.lacks_scans():
        if not rest:
            raise Unprocessable("unreadable_image", CUT_OFF)
        reading.kept.append(rest)
        complete = True  # as far as a damaged file can be
    return Parts(
        data=b"".join([*reading.kept, END]) if complete else b"".join(reading.kept).rstrip(b"\xff"),
        colours=reading.colours(),
        orientation=UPRIGHT if reading.exif is None else orientation(reading.exif),
        cut=not complete,
        rest=rest,
    )


class _Reading:
    """One walk over the segments; ``kept`` are those for the decoder."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.kept: list[memoryview | bytes] = [data[:2]]
        self.exif: bytes | None = None
        self._profile: dict[int, bytes] = {}
        self._profile_parts = 0
        self._at = 2
        self._ended = False
        self._frame: _Frame | None = None
        self._scans = 0
        self._segments = 0
        self._missing: dict[int, list[int]] = {}  # component -> bits that each coefficient still lacks

    def read(self) -> bool:
        """Walk to the end of the picture; return whether an end marker stands there."""
        data, view, at = self._data, memoryview(self._data), 2
        while found := _MARKER.search(data, at):
            marker, begin = found[1][0], found.end()
            if marker in (_START, _END):
                break
            end = begin + int.from_bytes(data[begin : begin + 2])
            if (self._scans and marker < 0xC0) or end < begin + 2 or end > len(data):
                break  # no segment: the trailer has begun, or the file ends here
            self._segments += 1
            if self._segments > MAX_SEGMENTS:
                raise Unprocessable("unreadable_image")
            self._segment(marker, data[begin + 2 : end])
            if marker == _SCAN:
                following = _MARKER.search(data, end)
                end = following.start() if following else len(data)
            if marker == _SCAN or marker in _TABLES or marker in _FRAMES or self._speaks_of_colours(marker, begin):
                self.kept.append(view[found.start() : end])
            self._at = at = end
            if marker == _SCAN and self._is_whole():
                found = following  # what stands behind the last scan of a sequential JPEG decides about nothing
                break
        if not self._scans:
            raise Unprocessable("unreadable_image", CUT_OFF)
        self._ended = found is not None and found[1][0] == _END
        return self._ended

    def lacks_scans(self) -> bool:
        """Return whether there is no end marker, and not every scan either."""
        return not self._ended and any(map(any, self._missing.values()))

    def _is_whole(self) -> bool:
        """Return whether every component of a sequential JPEG had its scan."""
        frame = self._frame
        return frame is not None and frame.marker not in _PROGRESSIVE and not any(map(any, self._missing.values()))

    def _speaks_of_colours(self, marker: int, begin: int) -> bool:
        if self._scans:  # decoders have decided by then; such a segment may only hide something
            return False
        return (marker == _JFIF and self._data.startswith(b"JFIF\0", begin + 2)) or (
            marker == _ADOBE and self._data.startswith(b"Adobe", begin + 2)
        )

    def _segment(self, marker: int, content: bytes) -> None:
        if marker in _FRAMES:
            self._begin_frame(marker, content)
        elif marker == _SCAN:
            self._begin_scan(content)
        elif marker == _EXIF and self.exif is None and content.startswith(b"Exif\0\0"):
            self.exif = content
        elif marker == _PROFILE and content.startswith(_PROFILE_NAME) and len(content) > len(_PROFILE_NAME) + 2:
            number, self._profile_parts = content[12], content[13]
            self._profile.setdefault(number, content[14:])

    def _begin_frame(self, marker: int, content: bytes) -> None:
        if name := _REFUSED.get(marker):
            raise UnsupportedMedia("unsupported_image", f"{name} is not supported here; export as baseline JPEG.")
        if content[0] == _LONG_BITS:
            raise UnsupportedMedia("unsupported_image", "12-bit JPEG is not supported here; export as 8-bit JPEG.")
        if content[0] != _BITS:
            raise Unprocessable("unreadable_image")
        components = frozenset(content[6::3][: content[5]])
        self._frame = _Frame(marker, components)
        self._missing = {component: [1] * _COEFFICIENTS for component in components}

    def _begin_scan(self, content: bytes) -> None:
        self._scans += 1
        if self._scans > MAX_SCANS or self._frame is None:
            raise Unprocessable("unreadable_image")
        count = content[0]
        first, last, low = 0, _COEFFICIENTS - 1, 0
        if self._frame.marker in _PROGRESSIVE:
            first, last, low = content[2 * count + 1], content[2 * count + 2], content[2 * count + 3] & 15
        for component in content[1 : 2 * count : 2]:
            if (missing := self._missing.get(component)) is not None:
                missing[first : last + 1] = [low] * (last + 1 - first)

    def rest(self) -> bytes:
        """Return what follows up to the last end marker, if there is one.

        A damaged scan may have a marker amid its pixels, and go on behind it. The
        decoder gets no more scans of it than :data:`MAX_SCANS` leaves.
        """
        end = self._data.rfind(END, self._at)
        if end < 0:
            return b""
        pieces = self._data[self._at : end].split(_SCAN_MARKER, MAX_SCANS + 1 - self._scans)
        return _SCAN_MARKER.join(pieces[: MAX_SCANS + 1 - self._scans]) + END

    def colours(self) -> tuple[bytes, ...]:
        """Return the ICC profile, put together; nothing if a part of it is missing."""
        numbers = range(1, self._profile_parts + 1)
        if not self._profile or any(number not in self._profile for number in numbers):
            return ()
        whole = b"".join(self._profile[number] for number in numbers)
        return (whole,) if len(whole) <= MAX_PROFILE_BYTES else ()
