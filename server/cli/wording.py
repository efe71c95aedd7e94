"""Sizes, times and places in words, and text that a terminal shows as it is."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Final

_SIZES: Final = ((2**30, "GB"), (2**20, "MB"), (2**10, "kB"))
_TIMES: Final = ((86400, "d"), (3600, "h"), (60, "min"))


def size(count: int) -> str:
    """Return a number of bytes: ``980 bytes``, ``1.9 MB``."""
    for unit, name in _SIZES:
        if count >= unit:
            value = count / unit
            return f"{value:.1f} {name}" if value < 10 else f"{value:.0f} {name}"
    return "1 byte" if count == 1 else f"{count} bytes"


def duration(seconds: float) -> str:
    """Return a time: ``0.4 s``, ``12 s``, ``4 min``; an int has no tenths."""
    for unit, name in _TIMES:
        if seconds >= 2 * unit or (unit == 60 and seconds >= 90):
            return f"{seconds / unit:.0f} {name}"
    whole = seconds >= 9.95 or isinstance(seconds, int)
    return f"{seconds:.0f} s" if whole else f"{max(seconds, 0.0):.1f} s"


def ordinal(number: int) -> str:
    """Return a place: ``1st``, ``2nd``, ``3rd``, ``11th``."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def seconds_between(earlier: str, later: str) -> float:
    """Return the seconds between two times of the protocol (RFC 3339)."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def printable(text: str) -> str:
    """Return text of a server or a processor without control characters.

    A terminal would obey them: they move the cursor, or set the window's title.
    """
    return "".join(" " if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp") else each for each in text)


def clipped(text: str, cells: int) -> str:
    """Return as much of a text as fits this many cells of a terminal.

    A wide character (East Asian Width W or F, Unicode annex 11) takes two, a combining
    one none.
    """
    taken = 0
    for number, each in enumerate(text):
        taken += 0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        if taken > cells:
            return text[:number]
    return text
