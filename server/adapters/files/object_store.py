"""Photos and results as objects in a bucket: S3, Google Cloud Storage or Azure.

Every call is one or a few HTTP requests by ``obstore``, which needs no thread of ours.
None waits for ever: a request that is answered by nothing ends after
:data:`~server.adapters.files.object_calls.ANSWER_SECONDS`, and a download that goes on
is not cut however long it takes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from server.adapters.files.errors import unavailable
from server.adapters.files.object_calls import ANSWER_SECONDS, answer, finished, upload_seconds
from server.adapters.files.object_errors import StorageRefusal, refuse
from server.adapters.files.object_parts import PART_BYTES, PartsUpload
from server.adapters.files.object_reading import ObjectFile
from server.adapters.files.port import FOLDERS, KEY, PAGE_KEYS, Entry, LinkMethod, MissingFile, Page
from server.domain.outputs import EXTENSIONS
from tryon.protocol.errors import StorageFull, TryOnError, Unavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta

WHOLE_BYTES: Final = 64 * 2**20
"""Maximum bytes in memory that are stored by one request."""

REQUESTS_AT_ONCE: Final = 16
"""Maximum requests in flight for one call that concerns many objects."""

LISTING_SECONDS: Final = 60.0
"""Maximum time of a listing: a page has several answers."""

KEYS_PER_SECOND: Final = 100
"""Deletions per second below which the storage counts as silent."""

CACHE_CONTROL: Final = "private, no-store"
"""Header of every object: a presigned link leads past our own answers."""

PROBE_KEY: Final = "inputs/00000000-0000-7000-8000-{}-probe-0.txt"
"""Key of an object that a check writes; it says nothing of any session.

One that a killed process or a silent bucket left is an orphan.
"""

_TYPES: Final = {extension: media_type for media_type, extension in EXTENSIONS.items()} | {"txt": "text/plain"}


class ObjectStoreFiles:
    """Implementation of :class:`~server.adapters.files.port.Files` in a bucket.

    ``presigned``: whether :meth:`link` returns links to the bucket.
    """

    def __init__(self, store: S3Store | GCSStore | AzureStore, name: str, *, presigned: bool = False) -> None:
        self.name = name
        self._store = store
        self._presigned = presigned
        self._resumes = not isinstance(store, AzureStore)
        """Whether a listing can begin behind a key; else one listing serves all."""
        self._deletes_many = isinstance(store, S3Store)
        """Whether one request deletes many objects, and does not say which existed."""

    def __repr__(self) -> str:
        return f"<ObjectStoreFiles {self.name}>"

    async def put(self, key: str, data: bytes | AsyncIterable[bytes]) -> None:
        """Store an object by one request, or by parts if it is large.

        The end of an upload that was given up may still reach the storage: then the
        object is an orphan, which the cleanup deletes.
        """
        _check(key)
        if not isinstance(data, AsyncIterable):
            if memoryview(data).nbytes <= WHOLE_BYTES:
                await self._put_whole(key, data)
            else:
                await self._put_parts(key, _pieces_of(data))
            return
        source = aiter(data)
        begin = bytearray()
        async for chunk in source:
            begin += chunk
            if len(begin) >= PART_BYTES:
                await self._put_parts(key, (each async for each in source if each), bytes(begin))
                return
        await self._put_whole(key, bytes(begin))

    async def _put_whole(self, key: str, data: bytes) -> None:
        request = obstore.put_async(self._store, key, data, attributes=_attributes(key), use_multipart=False)
        try:
            await finished(request, upload_seconds(memoryview(data).nbytes))
        except FileNotFoundError as error:
            refuse(error)

    async def _put_parts(self, key: str, source: AsyncIterator[bytes], begin: bytes = b"") -> None:
        await PartsUpload(source, begin).send(self._store, key, _attributes(key))

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        opened = await self.open(key)
        try:
            return await opened.read(opened.size)
        finally:
            await opened.aclose()

    async def open(self, key: str) -> ObjectFile:
        """Ask for the whole object; its bytes follow as they are read."""
        _check(key)
        try:
            found = await answer(obstore.get_async(self._store, key))
        except FileNotFoundError:
            raise MissingFile(key) from None
        return ObjectFile(self._store, key, found)

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """Delete the objects that exist, many by one request where the storage can."""
        checked = list(keys)
        for key in checked:
            _check(key)
        if not self._deletes_many:
            return _chosen(checked, await _each(self._delete_one, checked))
        found = _chosen(checked, await _each(self._exists, checked))
        try:
            if checked:
                request = obstore.delete_async(self._store, checked)
                await answer(request, ANSWER_SECONDS + len(checked) / KEYS_PER_SECOND)
        except (TryOnError, FileNotFoundError):  # one that cannot be deleted stops no other
            await _each(self._delete_one, checked)
        return found

    async def _exists(self, key: str) -> bool:
        try:
            await answer(obstore.head_async(self._store, key))
        except FileNotFoundError:
            return False
        return True

    async def _delete_one(self, key: str) -> bool:
        """Delete an object; return whether it existed, where the storage says so."""
        try:
            await answer(obstore.delete_async(self._store, key))
        except FileNotFoundError:
            return False
        return True

    async def list_page(self, *, after: str | None = None, limit: int = PAGE_KEYS) -> Page:
        """List the bucket below the prefix, from behind ``after``."""
        now = await self._now()
        entries: list[ObjectMeta] = []
        foreign, last = 0, None
        async for each in self._listed(after=after):
            if not KEY.fullmatch(each["path"]):
                foreign += 1
            elif len(entries) == limit:
                last = entries[-1]["path"]
                break
            else:
                entries.append(each)
        if now is None:
            now = max((each["last_modified"] for each in entries), default=None)
        ages = [0.0 if now is None else (now - each["last_modified"]).total_seconds() for each in entries]
        return Page(
            [Entry(each["path"], max(0.0, age)) for each, age in zip(entries, ages, strict=True)], last, foreign
        )

    async def _now(self) -> datetime | None:
        """Return the time by the clock that stamps objects.

        None: nothing can be written. Then ages count from the newest object, which
        makes none too old.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS * 2):
                return await self._probe()
        except (StorageFull, Unavailable, TimeoutError):
            return None

    async def _listed(self, *, folder: str | None = None, after: str | None = None) -> AsyncIterator[ObjectMeta]:
        """Yield objects in the order of their keys; each answer comes in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LISTING_SECONDS
        listing = obstore.list(self._store, folder, offset=after, chunk_size=1000)
        while (seconds := until - loop.time()) > 0:
            answered = await answer(_next(listing), min(seconds, 2 * ANSWER_SECONDS))
            if answered is None:
                return
            for each in answered:
                yield each
        raise unavailable() from StorageRefusal("its listing takes too long")

    async def outputs_of(self, session_ids: Collection[str]) -> list[str]:
        """List behind each session's beginning, or once where that is not possible."""
        if not session_ids:
            return []
        if not self._resumes:
            wanted = frozenset(session_ids)
            found = [
                each["path"]
                for folder in FOLDERS[1:]
                async for each in self._listed(folder=folder)
                if each["path"].partition("/")[2][:36] in wanted and KEY.fullmatch(each["path"])
            ]
            return sorted(found)
        begins = [f"{folder}/{session_id}" for folder in FOLDERS[1:] for session_id in session_ids]
        return sorted(key for keys in await _each(self._beginning_with, begins) for key in keys)

    async def _beginning_with(self, begin: str) -> list[str]:
        found = []
        async for each in self._listed(folder=begin.partition("/")[0], after=begin):
            if not each["path"].startswith(begin):
                break
            if KEY.fullmatch(each["path"]):
                found.append(each["path"])
        return found

    async def link(self, key: str, *, method: LinkMethod, seconds: int) -> str | None:
        """Return a presigned link to the object, if they are in use."""
        _check(key)
        if not self._presigned:
            return None
        return await answer(obstore.sign_async(self._store, method, key, timedelta(seconds=max(1, seconds))))

    async def free_bytes(self) -> None:
        """Return None: a bucket grows."""

    async def check(self) -> None:
        """Write, read back and delete an object."""
        await self._probe()

    async def _probe(self) -> datetime:
        """Prove that objects can be kept; return when the storage stamped one."""
        key = PROBE_KEY.format(secrets.token_hex(6))
        await self._put_whole(key, b"probe")
        try:
            found = await answer(obstore.get_async(self._store, key))
            if bytes(await answer(found.bytes_async())) != b"probe":
                raise unavailable() from StorageRefusal("it returned other bytes than it was given")
        except FileNotFoundError:
            raise unavailable() from StorageRefusal("it forgot an object that it had taken")
        finally:
            await self._delete_one(key)
        return found.meta["last_modified"]


def _check(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"not a file key: {key!r}")


def _attributes(key: str) -> dict[str, str]:
    """Return the headers with which a storage serves an object."""
    media_type = _TYPES.get(key.rpartition(".")[2], "application/octet-stream")
    return {"Content-Type": media_type, "Cache-Control": CACHE_CONTROL}


async def _pieces_of(data: bytes) -> AsyncIterator[bytes]:
    view = memoryview(data)
    for start in range(0, view.nbytes, PART_BYTES):
        yield bytes(view[start : start + PART_BYTES])


async def _next(listing: Any) -> Sequence[ObjectMeta] | None:
    try:
        found: Sequence[ObjectMeta] = await listing.__anext__()
    except StopAsyncIteration:
        return None
    return found


def _chosen(keys: Sequence[str], chosen: Sequence[bool]) -> list[str]:
    return [key for key, chosen_too in zip(keys, chosen, strict=True) if chosen_too]


async def _each(call: Any, items: Sequence[Any]) -> list[Any]:
    """Return the results of one call for each item, a few at a time.

    All are tried; then the first error is raised.
    """
    turns = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def one(item: Any) -> Any:
        async with turns:
            return await call(item)

    results = await asyncio.gather(*(one(item) for item in items), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
