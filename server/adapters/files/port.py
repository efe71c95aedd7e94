"""The port to file storage: photos and results, one object per key.

Every implementation keeps these guarantees, and one contract suite
(``tests/server/adapters/files/contract.py``) runs against each of them:

- ``put`` is atomic: a reader sees the previous object, the new one or none, also when
  the writer is killed in the middle.
- A successful ``put`` is visible to the next ``open``, ``get``, ``list_page`` and
  ``delete`` of any process.
- ``delete`` may be repeated; deleting a missing object is no error.
- Ages come from the clock that stamps the objects, which may differ from this
  machine's.
- Every call ends within a bounded time: a storage that answers nothing is Unavailable.
- Foreign errors never leave an implementation: :class:`MissingFile`,
  :class:`~tryon.protocol.errors.StorageFull` and
  :class:`~tryon.protocol.errors.Unavailable` are all that a caller sees, and ValueError
  for a malformed key.

A key is flat: ``inputs/<session>-person-0.jpg``, ``outputs/<session>-1-result-0.png``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

FOLDERS: Final = ("inputs", "outputs", "previews")
"""First segments of a key, in the order in which listings return them."""

KEY: Final = re.compile(r"(?:inputs|outputs|previews)/[0-9A-Za-z][0-9A-Za-z_-]{0,127}\.[a-z0-9]{1,8}", re.ASCII)
"""Syntax of a key: at most 145 characters, none of which leads out of its folder."""

LinkMethod: TypeAlias = Literal["GET", "HEAD"]
"""Method of the requests that a link to the storage is for."""

PAGE_KEYS: Final = 10_000
"""Default number of entries per page of a listing."""


class MissingFile(Exception):
    """The storage has no object with this key."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a listing."""

    key: str
    """Key of a finished object; for an unfinished one a name that only
    :meth:`Files.delete` accepts."""
    age_seconds: float
    """Since the object was written; never negative."""
    unfinished: bool = False
    """Whether a writer has not finished it, perhaps because it was killed."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, sorted by key.

    ``after`` continues it; None: this is the end.
    """

    entries: list[Entry]
    after: str | None
    foreign: int = 0
    """Number of entries that were left out: names that the product cannot have written,
    and anything but plain files.
    """


class OpenFile(Protocol):
    """An object opened for reading. It stays readable when it is deleted meanwhile."""

    @property
    def size(self) -> int:
        """Bytes of the object."""

    @property
    def modified_at(self) -> float:
        """Unix time of its writing, by the storage's clock."""

    async def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes; fewer only at the end.

        A cancelled call uses the object no more once it has returned. Raises
        Unavailable.
        """

    async def seek(self, position: int) -> int:
        """Continue reading at this byte, counted from 0; return it."""

    async def aclose(self) -> None:
        """Let the object go; may be called twice."""


class Files(Protocol):
    """Storage for photos and results. Safe for concurrent use by tasks of one loop."""

    async def put(self, key: str, data: bytes | AsyncIterable[bytes]) -> None:
        """Store an object, replacing a previous one with the same key.

        ``data``: the whole content (any buffer of bytes), or its chunks in order.
        Raises StorageFull, Unavailable, ValueError for a malformed key, and what
        ``data`` raises; then nothing is stored, and neither is by a cancelled call.
        """

    async def get(self, key: str) -> bytes:
        """Return the whole object. Raises MissingFile, Unavailable, ValueError."""

    async def open(self, key: str) -> OpenFile:
        """Open an object for streaming out.

        Raises MissingFile, Unavailable, ValueError.
        """

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """Delete objects, finished or not, and return the keys that existed.

        Raises Unavailable if one cannot be deleted, after it has deleted the others;
        the call may be repeated. Raises ValueError before it deletes any if one is
        malformed.
        """

    async def list_page(self, *, after: str | None = None, limit: int = PAGE_KEYS) -> Page:
        """Return up to ``limit`` entries behind ``after``, unfinished ones included.

        Names that the product cannot have written are left out. Raises Unavailable.
        """

    async def outputs_of(self, session_ids: Collection[str]) -> list[str]:
        """Return the keys of all results and previews of these sessions.

        Unfinished ones included.

        One listing whatever the number of sessions: ask for many at a time. Raises
        Unavailable.
        """

    async def link(self, key: str, *, method: LinkMethod, seconds: int) -> str | None:
        """Return an absolute URL at which the storage itself serves the object.

        None: it does not; the web process serves it. The link works for ``seconds`` and
        for requests by ``method`` alone, while the object exists. Raises Unavailable,
        ValueError.
        """

    async def free_bytes(self) -> int | None:
        """Return how much room is left; None where the storage has no such limit.

        For operators and tests: no upload depends on it, a full storage raises
        StorageFull. Raises Unavailable.
        """

    async def check(self) -> None:
        """Prove that an object can be written and read back; leave nothing.

        Raises StorageFull, Unavailable.
        """
