"""Photos and results as plain files under one folder; only this module knows paths."""

from __future__ import annotations

import contextlib
import errno
import heapq
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import AsyncIterable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from server.adapters.files.errors import storage_error, unavailable
from server.adapters.files.port import FOLDERS, KEY, PAGE_KEYS, Entry, LinkMethod, MissingFile, Page
from server.adapters.files.threads import Lent, StorageThreads
from server.system.disk_space import require_room
from tryon.protocol.errors import Unavailable

DRAFT_SUFFIX: Final = ".part"
"""End of the name of a file that is being written, or that a killed process left."""

RESULT_FOLDERS: Final = ("outputs", "previews")
"""Folders of the files that workers store."""

LISTING_SECONDS: Final = 30.0
"""Maximum time of a listing: a folder may have a million names."""

_DRAFT: Final = re.compile(KEY.pattern + r"\.[0-9a-f]{16}" + re.escape(DRAFT_SUFFIX), re.ASCII)


class LocalFiles:
    """Implementation of :class:`~server.adapters.files.port.Files` in one folder.

    :meth:`make_folders` comes first. A finished file survives the death of
    every process, not a power cut: nothing is fsynced. All calls of the operating
    system run in ``threads``.
    """

    def __init__(self, root: Path, threads: StorageThreads) -> None:
        self.root = root
        self._threads = threads

    def __repr__(self) -> str:
        return f"<LocalFiles {self.root}>"

    async def make_folders(self) -> None:
        """Make the folders (0700) that are missing. Raises StorageFull, Unavailable."""
        try:
            for folder in FOLDERS:
                await self._threads.run((self.root / folder).mkdir, mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error) from error

    async def put(self, key: str, data: bytes | AsyncIterable[bytes]) -> None:
        """Store a file (0600) under a temporary name, then rename it.

        A storage that answers nothing may do the rename later: the file is an orphan
        then.
        """
        draft, run = _Draft(self._path(key)), self._threads.run
        try:
            if isinstance(data, AsyncIterable):
                await run(draft.open)
                async for chunk in data:
                    await run(draft.write, chunk)
                await run(draft.close)
            else:
                await run(draft.fill, data)
            await run(draft.finish)  # a call of its own: not begun for a caller that has left
        except BaseException:
            if not draft.lent.close_after_use():
                with contextlib.suppress(Unavailable):  # a leftover for the cleanup
                    await run(draft.discard)
            raise

    async def get(self, key: str) -> bytes:
        """Return the whole file."""
        path = self._path(key)
        with _reading(key):
            return await self._threads.run(_content, path)

    async def open(self, key: str) -> LocalFile:
        """Open a file; deleting it does not disturb its readers."""
        opened = LocalFile(self._path(key), self._threads)
        try:
            with _reading(key):
                await self._threads.run(opened.open)
        except BaseException:
            await opened.aclose()
            raise
        return opened

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """Unlink the files one after the other; one that cannot be stops no other."""
        checked = list(keys)
        for key in checked:
            if not _DRAFT.fullmatch(key):
                self._path(key)
        return await self._threads.run(self._delete, checked)

    def _delete(self, keys: list[str]) -> list[str]:
        """Delete what can be deleted, then raise the first error."""
        found, first = [], None
        for key in keys:
            try:
                (self.root / key).unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                first = first or error
            else:
                found.append(key)
        if first is not None:
            raise storage_error(first) from first
        return found

    async def list_page(self, *, after: str | None = None, limit: int = PAGE_KEYS) -> Page:
        """Read each folder behind ``after`` once; look at entries of the page alone."""
        return await self._threads.run_for(LISTING_SECONDS, self._list_page, after or "", limit)

    def _list_page(self, after: str, limit: int) -> Page:
        try:
            names = [name for name in self._names(after) if name > after]
            keys = heapq.nsmallest(limit + 1, filter(_may_be_ours, names))
            last = keys[limit - 1] if len(keys) > limit else None
            clocks = {folder: self._now(folder) for folder in {key.partition("/")[0] for key in keys}}
        except OSError as error:
            raise storage_error(error) from error
        foreign = sum(1 for name in names if not _may_be_ours(name) and (last is None or name <= last))
        entries = []
        for key in keys[:limit]:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                written = self._written_at(key)
                if written is None:
                    foreign += 1
                else:
                    age = max(0.0, clocks[key.partition("/")[0]] - written)
                    entries.append(Entry(key, age, unfinished=key.endswith(DRAFT_SUFFIX)))
        return Page(entries, last, foreign)

    def _names(self, after: str) -> Iterator[str]:
        """Yield the names in all folders that may have one behind ``after``."""
        for folder in FOLDERS:
            if folder >= after.partition("/")[0]:
                for name in os.listdir(self.root / folder):
                    yield f"{folder}/{name}"

    def _written_at(self, key: str) -> float | None:
        """Return the time of a file's writing; None for anything but a plain file.

        Raises FileNotFoundError. An entry that cannot be looked at is none of ours.
        """
        try:
            found = (self.root / key).lstat()
        except FileNotFoundError:
            raise
        except OSError:
            return None
        return found.st_mtime if stat.S_ISREG(found.st_mode) else None

    def _now(self, folder: str) -> float:
        """Return the time by the clock that stamps files; needs no room on the disk."""
        os.utime(self.root / folder)
        return (self.root / folder).stat().st_mtime

    async def outputs_of(self, session_ids: Collection[str]) -> list[str]:
        """List the folders of results and of previews once."""
        return await self._threads.run_for(LISTING_SECONDS, self._outputs_of, frozenset(session_ids))

    def _outputs_of(self, session_ids: frozenset[str]) -> list[str]:
        keys = []
        try:
            for folder in RESULT_FOLDERS:
                for name in os.listdir(self.root / folder):
                    if name[:36] in session_ids and _may_be_ours(key := f"{folder}/{name}"):
                        keys.append(key)
        except OSError as error:
            raise storage_error(error) from error
        found = []
        for key in sorted(keys):
            with contextlib.suppress(FileNotFoundError):
                if self._written_at(key) is not None:
                    found.append(key)
        return found

    async def link(self, key: str, *, method: LinkMethod, seconds: int) -> None:
        """Return None: the web process serves these files."""
        return None

    async def free_bytes(self) -> int:
        """Return the room on the file system that this user may fill."""
        try:
            return (await self._threads.run(shutil.disk_usage, self.root)).free
        except OSError as error:
            raise storage_error(error) from error

    async def check(self) -> None:
        """Write and read back a nameless file in each folder."""
        await self._threads.run(self._check)

    def _check(self) -> None:
        try:
            for folder in FOLDERS:
                with tempfile.TemporaryFile(dir=self.root / folder) as probe:  # without a name: nothing stays
                    probe.write(b"probe")
                    probe.flush()
                    os.fsync(probe.fileno())
                    probe.seek(0)
                    if probe.read() != b"probe":
                        raise unavailable()
        except OSError as error:
            raise storage_error(error) from error

    def _path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError(f"not a file key: {key!r}")
        return self.root / key


class LocalFile:
    """A file of :class:`LocalFiles` opened for reading; :meth:`open` comes first."""

    __slots__ = ("_file", "_lent", "_path", "_threads", "modified_at", "size")

    def __init__(self, path: Path, threads: StorageThreads) -> None:
        self._path = path
        self._threads = threads
        self._file: io.FileIO | None = None
        self._lent = Lent(self._close)
        self.size = 0
        self.modified_at = 0.0

    def __repr__(self) -> str:
        return f"<LocalFile {self.size} bytes{' closed' if self._file is None or self._file.closed else ''}>"

    def open(self) -> None:
        """Open the file. Raises OSError."""
        with self._lent.use():
            self._file = _opened(self._path)
            found = os.fstat(self._file.fileno())
            self.size, self.modified_at = found.st_size, found.st_mtime

    async def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes; fewer only at the end."""
        try:
            return await self._threads.run(self._read, count)
        except OSError as error:
            raise storage_error(error) from error

    def _read(self, count: int) -> bytes:
        assert self._file is not None
        with self._lent.use():
            return self._file.read(count) or b""

    async def seek(self, position: int) -> int:
        """Continue at this byte."""
        assert self._file is not None
        return self._file.seek(position)

    async def aclose(self) -> None:
        """Close the descriptor, at the end of a read that the storage does not end."""
        self._lent.close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Draft:
    """A file that is being written under a name of its own, beside its final one.

    :meth:`open` or :meth:`fill` is the first call, :meth:`finish` or :meth:`discard`
    the last. Each raises StorageFull or Unavailable.
    """

    __slots__ = ("_draft", "_file", "_path", "lent")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}{DRAFT_SUFFIX}")
        self._file: io.BufferedWriter | None = None
        self.lent = Lent(self.discard)
        """Discards the draft when the thread that writes it has ended."""

    def __repr__(self) -> str:
        state = "unopened" if self._file is None else "closed" if self._file.closed else "open"
        return f"<_Draft {self._draft.name} {state}>"

    def fill(self, data: bytes) -> None:
        """Create the file with its whole content."""
        with self._writing():
            self._open()
            assert self._file is not None
            self._append(data)
            self._file.close()

    def open(self) -> None:
        """Create the file (0600), empty."""
        with self._writing():
            self._open()

    def write(self, data: bytes) -> None:
        """Append to the file; leave room on its disk for deleting."""
        with self._writing():
            self._append(data)

    def close(self) -> None:
        """Write down the last bytes."""
        assert self._file is not None
        with self._writing():
            self._file.close()

    def finish(self) -> None:
        """Give the file its final name."""
        with self._writing():
            self._draft.replace(self._path)

    def discard(self) -> None:
        """Remove what was written; may follow any failed call."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # a full disk may refuse the last buffered bytes
            self._file.close()
        with contextlib.suppress(OSError):
            self._draft.unlink(missing_ok=True)

    def _open(self) -> None:
        descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        require_room(self._draft.parent, len(data))
        self._file.write(data)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self.lent.use():
                yield
        except OSError as error:
            raise storage_error(error) from error


def _may_be_ours(name: str) -> bool:
    return bool(KEY.fullmatch(name) or _DRAFT.fullmatch(name))


def _opened(path: Path) -> io.FileIO:
    """Open a plain file for reading; anything else raises OSError and blocks nothing.

    A link leads out of the storage, and to open a pipe waits for its writer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        return io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _content(path: Path) -> bytes:
    with _opened(path) as file:
        return file.readall()


@contextlib.contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MissingFile(key) from None
    except OSError as error:
        raise storage_error(error) from error
