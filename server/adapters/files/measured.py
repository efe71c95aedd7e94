"""The metrics of the storage, around whichever implementation it has."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator
from typing import Final

from server.adapters.files.port import FOLDERS, PAGE_KEYS, Files, LinkMethod, OpenFile, Page
from server.telemetry import metrics
from tryon.protocol.errors import StorageFull, Unavailable

_OPERATIONS: Final = ("put", "get", "open", "delete", "list", "check")
_SECONDS: Final = {name: metrics.storage_seconds.labels(name) for name in _OPERATIONS}
_ERRORS: Final = {name: metrics.storage_errors.labels(name) for name in _OPERATIONS}
_COUNTED: Final = ("stored", "read")
_FILES: Final = {
    (folder, name): metrics.files.labels(folder, name) for folder in FOLDERS for name in (*_COUNTED, "deleted")
}
_BYTES: Final = {(folder, name): metrics.file_bytes.labels(folder, name) for folder in FOLDERS for name in _COUNTED}


class MeasuredFiles:
    """Implementation of :class:`~server.adapters.files.port.Files` by another one.

    Each call is timed; its guarantees and errors are those of ``files``. An object that
    is opened counts with its whole size, whatever part of it is read.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def __repr__(self) -> str:
        return f"<MeasuredFiles {self.files!r}>"

    async def put(self, key: str, data: bytes | AsyncIterable[bytes]) -> None:
        """Store an object, and count its bytes."""
        length = _Length()
        with _measured("put"):
            await self.files.put(key, length.of(data) if isinstance(data, AsyncIterable) else data)
        _count(key, "stored", length.bytes if isinstance(data, AsyncIterable) else len(data))

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        with _measured("get"):
            data = await self.files.get(key)
        _count(key, "read", len(data))
        return data

    async def open(self, key: str) -> OpenFile:
        """Open an object for streaming out."""
        with _measured("open"):
            opened = await self.files.open(key)
        _count(key, "read", opened.size)
        return opened

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """Delete objects, and count those that existed."""
        with _measured("delete"):
            deleted = await self.files.delete(keys)
        for key in deleted:
            _FILES[key.partition("/")[0], "deleted"].inc()
        return deleted

    async def list_page(self, *, after: str | None = None, limit: int = PAGE_KEYS) -> Page:
        """Return a page of the listing."""
        with _measured("list"):
            return await self.files.list_page(after=after, limit=limit)

    async def outputs_of(self, session_ids: Collection[str]) -> list[str]:
        """Return the keys of all results and previews of these sessions."""
        with _measured("list"):
            return await self.files.outputs_of(session_ids)

    async def link(self, key: str, *, method: LinkMethod, seconds: int) -> str | None:
        """Return the storage's own link."""
        return await self.files.link(key, method=method, seconds=seconds)

    async def free_bytes(self) -> int | None:
        """Return how much room is left."""
        return await self.files.free_bytes()

    async def check(self) -> None:
        """Prove that an object can be written and read back."""
        with _measured("check"):
            await self.files.check()


class _Length:
    """The number of bytes of a stream, counted while it is stored."""

    def __init__(self) -> None:
        self.bytes = 0

    async def of(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.bytes += len(chunk)
            yield chunk


def _count(key: str, operation: str, length: int) -> None:
    folder = key.partition("/")[0]
    _FILES[folder, operation].inc()
    _BYTES[folder, operation].inc(length)


@contextlib.contextmanager
def _measured(operation: str) -> Iterator[None]:
    begun = time.perf_counter()
    try:
        yield
    except (StorageFull, Unavailable):
        _ERRORS[operation].inc()
        raise
    finally:
        _SECONDS[operation].observe(time.perf_counter() - begun)
