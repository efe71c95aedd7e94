"""Photos and results as plain files under one folder; only this module knows paths."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import io
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from server.adapters.files.errors import storage_error
from server.adapters.files.port import FOLDERS, KEY, PAGE_KEYS, Entry, MissingFile, Page
from server.system.disk_space import require_room
from tryon.protocol.errors import Unavailable

DRAFT_SUFFIX: Final = ".part"
"""End of the name of a file that is being written, or that a killed process left."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_DRAFT: Final = re.compile(KEY.pattern + r"\.[0-9a-f]{16}" + re.escape(DRAFT_SUFFIX), re.ASCII)


class LocalFiles:
    """Implementation of :class:`~server.adapters.files.port.Files` in one folder.

    ``root`` is made (0700) if it is missing. A finished file survives the death of
    every process, not a power cut: nothing is fsynced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in FOLDERS:
            (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<LocalFiles {self.root}>"

    async def put(self, key: str, data: bytes | AsyncIterable[bytes]) -> None:
        """Store a file (0600) under a temporary name, then rename it."""
        draft = _Draft(self._path(key))
        if not isinstance(data, AsyncIterable):
            await _finished(self._put, draft, data)
            return
        try:
            await _finished(draft.open)
            async for chunk in data:
                await _finished(draft.write, chunk)
            await _finished(draft.finish)
        except BaseException:
            await _finished(draft.discard)
            raise

    def _put(self, draft: _Draft, data: bytes) -> None:
        try:
            draft.open()
            draft.write(data)
            draft.finish()
        except BaseException:
            draft.discard()
            raise

    async def get(self, key: str) -> bytes:
        """Return the whole file."""
        path = self._path(key)
        with _reading(key):
            return await asyncio.to_thread(path.read_bytes)

    async def open(self, key: str) -> LocalFile:
        """Open a file; deleting it does not disturb its readers."""
        path = self._path(key)
        with _reading(key):
            return await asyncio.to_thread(LocalFile, path)

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """Unlink the files one after the other."""
        checked = list(keys)
        for key in checked:
            if not _DRAFT.fullmatch(key):
                self._path(key)
        return await asyncio.to_thread(self._delete, checked)

    def _delete(self, keys: list[str]) -> list[str]:
        found = []
        for key in keys:
            try:
                (self.root / key).unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(error) from error
            found.append(key)
        return found

    async def list_page(self, *, after: str | None = None, limit: int = PAGE_KEYS) -> Page:
        """Read each folder behind ``after`` once; look at entries of the page alone."""
        return await asyncio.to_thread(self._list_page, after or "", limit)

    def _list_page(self, after: str, limit: int) -> Page:
        try:
            names = heapq.nsmallest(limit + 1, (key for key in self._keys(after) if key > after))
            clocks = {folder: self._now(folder) for folder in {key.partition("/")[0] for key in names}}
            entries = []
            for key in names[:limit]:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    written = (self.root / key).stat(follow_symlinks=False).st_mtime
                    age = max(0.0, clocks[key.partition("/")[0]] - written)
                    entries.append(Entry(key, age, unfinished=key.endswith(DRAFT_SUFFIX)))
        except OSError as error:
            raise storage_error(error) from error
        return Page(entries, names[limit - 1] if len(names) > limit else None)

    def _keys(self, after: str) -> Iterator[str]:
        """Yield the keys of all folders that may have one behind ``after``."""
        for folder in FOLDERS:
            if folder < after.partition("/")[0]:
                continue
            for name in os.listdir(self.root / folder):
                key = f"{folder}/{name}"
                if KEY.fullmatch(key) or _DRAFT.fullmatch(key):
                    yield key

    def _now(self, folder: str) -> float:
        """Return the time by the clock that stamps files; needs no room on the disk."""
        os.utime(self.root / folder)
        return (self.root / folder).stat().st_mtime

    async def outputs_of(self, session_ids: Collection[str]) -> list[str]:
        """List the folder of results once."""
        return await asyncio.to_thread(self._outputs_of, frozenset(session_ids))

    def _outputs_of(self, session_ids: frozenset[str]) -> list[str]:
        try:
            names = os.listdir(self.root / "outputs")
        except OSError as error:
            raise storage_error(error) from error
        keys = [f"outputs/{name}" for name in names if name[:36] in session_ids]
        return sorted(key for key in keys if KEY.fullmatch(key) or _DRAFT.fullmatch(key))

    def link(self, key: str, *, seconds: int) -> str | None:
        """Return None: the web process serves these files."""
        return None

    async def free_bytes(self) -> int:
        """Return the room on the file system that this user may fill."""
        try:
            return (await asyncio.to_thread(shutil.disk_usage, self.root)).free
        except OSError as error:
            raise storage_error(error) from error

    async def check(self) -> None:
        """Write and read back a nameless file in each folder."""
        await asyncio.to_thread(self._check)

    def _check(self) -> None:
        try:
            for folder in FOLDERS:
                with tempfile.TemporaryFile(dir=self.root / folder) as probe:  # without a name: nothing stays
                    probe.write(b"probe")
                    probe.flush()
                    os.fsync(probe.fileno())
                    probe.seek(0)
                    if probe.read() != b"probe":
                        raise Unavailable
        except OSError as error:
            raise storage_error(error) from error

    def _path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError(f"not a file key: {key!r}")
        return self.root / key


class LocalFile:
    """A file of :class:`LocalFiles` opened for reading."""

    __slots__ = ("_file", "modified_at", "size")

    def __init__(self, path: Path) -> None:
        self._file = io.FileIO(path)
        found = os.fstat(self._file.fileno())
        self.size: int = found.st_size
        self.modified_at: float = found.st_mtime

    def __repr__(self) -> str:
        return f"<LocalFile {self.size} bytes{' closed' if self._file.closed else ''}>"

    async def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes; fewer only at the end.

        A cancelled read ends in its thread before this returns: else that thread could
        read from the descriptor of another file, opened after :meth:`aclose`.
        """
        try:
            return await _finished(self._file.read, count) or b""
        except OSError as error:
            raise storage_error(error) from error

    async def seek(self, position: int) -> int:
        """Continue at this byte."""
        return self._file.seek(position)

    async def aclose(self) -> None:
        """Close the descriptor."""
        self._file.close()


class _Draft:
    """A file that is being written under a name of its own, beside its final one.

    :meth:`open` is the first call, :meth:`finish` or :meth:`discard` the last.
    """

    __slots__ = ("_draft", "_file", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}{DRAFT_SUFFIX}")
        self._file: io.BufferedWriter | None = None

    def __repr__(self) -> str:
        state = "unopened" if self._file is None else "closed" if self._file.closed else "open"
        return f"<_Draft {self._draft.name} {state}>"

    def open(self) -> None:
        """Create the file (0600), empty."""
        try:
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise storage_error(error) from error
        self._file = os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        """Append to the file; leave room on its disk for deleting."""
        assert self._file is not None
        try:
            require_room(self._draft.parent, len(data))
            self._file.write(data)
        except OSError as error:
            raise storage_error(error) from error

    def finish(self) -> None:
        """Give the file its final name."""
        assert self._file is not None
        try:
            self._file.close()
            self._draft.replace(self._path)
        except OSError as error:
            raise storage_error(error) from error

    def discard(self) -> None:
        """Remove what was written; may follow a failed :meth:`open`, :meth:`finish`."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # a full disk may refuse the last buffered bytes
            self._file.close()
        with contextlib.suppress(OSError):
            self._draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MissingFile(key) from None
    except OSError as error:
        raise storage_error(error) from error


async def _finished(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run work in a thread and await its end, also when the caller is cancelled.

    The thread goes on regardless: a caller that deletes or closes the file next must
    not be earlier than the thread's last use of it. Further cancels while the work ends
    are one with the first.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # noted, so that nothing complains of it
        raise
