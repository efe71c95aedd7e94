"""The files of a session as values: its photos, its results, and the last preview.

:class:`NewFile` is a file that is about to be stored, :class:`StoredFile` its row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from server.domain.outputs import EXTENSIONS


class Direction(StrEnum):
    """The use of a stored file: input, output or preview."""

    INPUT = "input"
    OUTPUT = "output"
    PREVIEW = "preview"
    """The last intermediate picture."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is ready to be stored: upright, without metadata.

    ``width`` and ``height`` are in pixels; 0: unknown.
    """

    data: bytes = field(repr=False)
    type: str = "image/jpeg"
    width: int = 0
    height: int = 0
    role: str = "result"

    @property
    def extension(self) -> str:
        """Return the extension of the stored file, without a dot."""
        return EXTENSIONS[self.type]


class StoredFile(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A row of ``tryon_files``, and how a read encodes it: as an array.

    In the order of the files: inputs, outputs, preview, each by its place.
    """

    direction: Direction
    position: int
    """Its place among the files of this direction, from 0: the first is the one that
    clients of one photo and one result are shown.
    """
    role: str
    index: int
    """Its place among the files of this role, from 0."""
    key: str
    type: str
    bytes: int = 0
    sha256: str = ""
    """SHA-256 of the stored bytes: 64 hex digits; empty if it is unknown."""
    width: int = 0
    """Pixels; 0: unknown."""
    height: int = 0


def indices(roles: Iterable[str]) -> list[int]:
    """Return the place of each file among those of its role, from 0."""
    seen: dict[str, int] = {}
    places = []
    for role in roles:
        places.append(seen.get(role, 0))
        seen[role] = places[-1] + 1
    return places
