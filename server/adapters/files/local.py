"""Photos and results as plain files under one folder; the only place that knows their
paths.

A key is flat, ``inputs/<session>-image.jpg`` or ``outputs/<session>-<attempt>.png``,
and every method checks it against :data:`KEY`, so no key leads out of the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from tryon.protocol.errors import StorageFull, Unavailable

FOLDERS: Final = ("inputs", "outputs")
KEY: Final = re.compile(r"(?:inputs|outputs)/[0-9A-Za-z][0-9A-Za-z-]{0,127}\.[a-z0-9]{1,8}", re.ASCII)
"""The syntax of a key."""
DRAFT_SUFFIX: Final = ".part"
_DRAFT: Final = re.compile(KEY.pattern + r"\.[0-9a-f]{16}\.part", re.ASCII)
"""A file that is being written, or that a killed process left behind."""


class MissingFile(Exception):
    """There is no file with this key (any more)."""


def storage_error(error: OSError) -> StorageFull | Unavailable:
    """What a failed write means to the caller."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull()
    return Unavailable()


class LocalFiles:
    """Files in ``root``, which is made if it is missing (0700).

    :meth:`put` is atomic: a reader sees the old file, the new one or none, also if the
    writer is killed. It survives the death of every process, not a power cut: nothing
    is fsynced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in FOLDERS:
            (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<LocalFiles {self.root}>"

    def path(self, key: str) -> Path:
        """Where the file is, if it is.

        Raises :class:`ValueError` for what is no key.
        """
        if not KEY.fullmatch(key):
            raise ValueError(f"not a file key: {key!r}")
        return self.root / key

    async def put(self, key: str, data: bytes) -> None:
        """Stores ``data`` (0600), replacing what was there.

        Raises :class:`StorageFull` or :class:`Unavailable`.
        """
        writing = asyncio.ensure_future(asyncio.to_thread(self._put, self.path(key), data))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:  # the thread goes on: whoever now deletes the file must not be too early
            await asyncio.wait([writing])
            if not writing.cancelled():
                writing.exception()
            raise

    def _put(self, path: Path, data: bytes) -> None:
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                draft.replace(path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise storage_error(error) from error

    async def get(self, key: str) -> bytes:
        """The whole file.

        Raises :class:`MissingFile`, or :class:`Unavailable` if it is there but can't be
        read.
        """
        path = self.path(key)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise MissingFile(key) from None
        except OSError as error:
            raise storage_error(error) from error

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """Deletes files and unfinished ones, and returns the keys that were there.

        Raises :class:`Unavailable`; then the rest is still there, and the call may be
        repeated.
        """
        checked = list(keys)
        for key in checked:
            if not _DRAFT.fullmatch(key):
                self.path(key)
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

    async def keys(self) -> list[tuple[str, float]]:
        """Every key with its age in seconds (since it was written, never negative), by
        the clock that stamps the files: this machine's may differ from it. Raises
        :class:`Unavailable`.

        Unfinished files of killed writers are among them, as ``<key>.<random>.part``:
        they can be deleted, not read.
        """
        return await asyncio.to_thread(lambda: list(self._keys()))

    def _keys(self) -> Iterator[tuple[str, float]]:
        for folder in FOLDERS:
            try:
                os.utime(self.root / folder)  # stamps it as writing a file would, and needs no room on the disk
                now = (self.root / folder).stat().st_mtime
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        key = f"{folder}/{entry.name}"
                        if not (KEY.fullmatch(key) or _DRAFT.fullmatch(key)):
                            continue
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                            yield key, max(0.0, now - entry.stat(follow_symlinks=False).st_mtime)
            except OSError as error:
                raise storage_error(error) from error

    async def outputs_of(self, session_ids: Collection[str]) -> list[str]:
        """The keys of all results of these sessions, unfinished ones included, whether
        or not their rows name them.

        It lists the whole folder, once: ask for many at a time.
        """
        return await asyncio.to_thread(self._outputs_of, frozenset(session_ids))

    def _outputs_of(self, session_ids: frozenset[str]) -> list[str]:
        try:
            names = os.listdir(self.root / "outputs")
        except OSError as error:
            raise storage_error(error) from error
        keys = [f"outputs/{name}" for name in names if name[:36] in session_ids]
        return [key for key in keys if KEY.fullmatch(key) or _DRAFT.fullmatch(key)]

    async def check(self) -> None:
        """Proves that a file can be written and read back.

        Raises :class:`StorageFull` or :class:`Unavailable`.
        """
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
