"""The contract of :class:`~server.adapters.files.port.Files`, for every implementation.

Subclass :class:`FilesContract` in the implementation's own test file and give it a
``files`` fixture that starts empty.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from server.adapters.files.port import Files, MissingFile

SESSION: Final = "01a203e0-0000-7000-8000-000000000001"
KEY: Final = f"inputs/{SESSION}-image.jpg"
OTHER: Final = f"outputs/{SESSION}-1.jpg"

MALFORMED: Final = (
    "",
    "inputs/",
    "inputs/..",
    "inputs/../secret.key",
    "../secret.key",
    "/etc/passwd",
    "inputs//a.jpg",
    "inputs/a/b.jpg",
    "inputs/.a.jpg",
    "inputs/a.jpg\n",
    "inputs/a.jpg\0",
    "inputs/a..jpg",
    "inputs/a.jpg/",
    "inputs\\a.jpg",
    "others/a.jpg",
    "inputs/ä.jpg",
    f"inputs/{'a' * 200}.jpg",
)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield the parts, with a turn of the loop before each."""
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def keys_of(files: Files) -> list[str]:
    """Return every key of one unlimited listing."""
    return [entry.key for entry in (await files.list_page()).entries]


class FilesContract:
    """One story per guarantee of the port."""

    async def test_get_returns_what_was_put(self, files: Files) -> None:
        """A stored object comes back byte for byte, an empty one too."""
        await files.put(KEY, b"photo")
        await files.put(OTHER, b"")
        assert await files.get(KEY) == b"photo"
        assert await files.get(OTHER) == b""

    async def test_put_takes_a_stream(self, files: Files) -> None:
        """Chunks are stored in their order as one object."""
        await files.put(KEY, chunks(b"one ", b"", b"photo"))
        assert await files.get(KEY) == b"one photo"

    async def test_put_stores_nothing_when_the_stream_fails(self, files: Files) -> None:
        """The previous object stays, and no unfinished one is left."""

        async def broken() -> AsyncIterator[bytes]:
            yield b"half"
            raise ConnectionResetError

        await files.put(KEY, b"whole")
        with pytest.raises(ConnectionResetError):
            await files.put(KEY, broken())
        with pytest.raises(ConnectionResetError):
            await files.put(OTHER, broken())
        assert await files.get(KEY) == b"whole"
        assert await keys_of(files) == [KEY]

    async def test_put_stores_nothing_when_the_stream_is_cancelled(self, files: Files) -> None:
        """A cancelled upload leaves no object, finished or not."""
        reached = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"half"
            reached.set()
            await asyncio.Event().wait()

        async def upload() -> None:
            await files.put(KEY, endless())

        putting = asyncio.create_task(upload())
        await reached.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert await keys_of(files) == []

    async def test_put_cancelled_before_the_first_chunk(self, files: Files) -> None:
        """An upload that is cancelled as early as possible leaves no object either."""

        async def endless() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b"never"

        for turns in range(12):
            putting = asyncio.ensure_future(files.put(KEY, endless()))
            for _ in range(turns):
                await asyncio.sleep(0)
            putting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await putting
            assert await keys_of(files) == [], f"after {turns} turns of the loop"

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    async def test_put_takes_any_buffer(self, files: Files, kind: Any) -> None:
        """A buffer that is no ``bytes`` is the whole content, not a stream."""
        await files.put(KEY, kind(b"photo"))
        assert await files.get(KEY) == b"photo"

    async def test_put_replaces_the_whole_object(self, files: Files) -> None:
        """Nothing of a longer previous version shines through."""
        await files.put(KEY, b"a longer first version")
        await files.put(KEY, b"short")
        assert await files.get(KEY) == b"short"

    async def test_readers_see_whole_versions_only(self, files: Files) -> None:
        """A reader beside a writer gets the previous object or the new one."""
        versions = [bytes([number]) * 500_000 for number in range(10)]
        await files.put(KEY, versions[0])
        writes = asyncio.gather(*(files.put(KEY, version) for version in versions))
        for data in await asyncio.gather(*(files.get(KEY) for _ in range(20))):
            assert data in versions
        await writes

    async def test_missing_object_is_reported_as_missing(self, files: Files) -> None:
        """A missing object is no unavailable storage."""
        with pytest.raises(MissingFile):
            await files.get(KEY)
        with pytest.raises(MissingFile):
            await files.open(KEY)

    async def test_open_streams_any_part(self, files: Files) -> None:
        """An open file knows its size and reads from any position."""
        await files.put(KEY, b"0123456789")
        opened = await files.open(KEY)
        try:
            assert opened.size == 10
            assert opened.modified_at > 0
            assert await opened.read(4) == b"0123"
            assert await opened.seek(7) == 7
            assert await opened.read(100) == b"789"
            assert await opened.read(100) == b""
        finally:
            await opened.aclose()
        await opened.aclose()

    async def test_open_file_outlives_its_deletion(self, files: Files) -> None:
        """A download that has begun ends with the whole object."""
        await files.put(KEY, b"photo")
        opened = await files.open(KEY)
        try:
            await files.delete([KEY])
            assert await opened.read(100) == b"photo"
        finally:
            await opened.aclose()

    async def test_cancelled_read_does_not_outlive_its_file(self, files: Files) -> None:
        """A file closed after a cancelled read takes nothing from the next one."""
        await files.put(KEY, b"1" * 300_000)
        await files.put(OTHER, b"2" * 300_000)
        for turns in range(12):
            first = await files.open(KEY)
            reading = asyncio.ensure_future(first.read(300_000))
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            await first.aclose()
            second = await files.open(OTHER)
            try:
                assert await second.read(300_000) == b"2" * 300_000
            finally:
                await second.aclose()

    async def test_delete_returns_the_keys_that_existed(self, files: Files) -> None:
        """Deleting twice is no error and returns nothing the second time."""
        await files.put(KEY, b"photo")
        assert await files.delete([OTHER, KEY]) == [KEY]
        assert await files.delete([OTHER, KEY]) == []
        assert await keys_of(files) == []

    async def test_list_returns_sorted_pages(self, files: Files) -> None:
        """Pages follow each other without gap or repeat, whatever their size."""
        keys = sorted(f"{folder}/{SESSION}-{number}.jpg" for folder in ("inputs", "outputs") for number in range(4))
        for key in keys:
            await files.put(key, b"photo")
        for limit in (1, 3, 8, 100):
            found, after = [], None
            while True:
                page = await files.list_page(after=after, limit=limit)
                assert len(page.entries) <= limit
                found += [entry.key for entry in page.entries]
                after = page.after
                if after is None:
                    break
            assert found == keys

    async def test_list_returns_the_age_of_a_new_object(self, files: Files) -> None:
        """An object that was just written is young and finished."""
        await files.put(KEY, b"photo")
        [entry] = (await files.list_page()).entries
        assert 0 <= entry.age_seconds < 100
        assert not entry.unfinished

    async def test_outputs_of_returns_results_of_these_sessions(self, files: Files) -> None:
        """Results of other sessions and photos are left out."""
        stranger = "01a203e0-0000-7000-8000-000000000002"
        mine = [f"outputs/{SESSION}-1.jpg", f"outputs/{SESSION}-2.png"]
        for key in (*mine, KEY, f"outputs/{stranger}-1.jpg"):
            await files.put(key, b"photo")
        assert await files.outputs_of([SESSION]) == mine
        assert await files.outputs_of([]) == []

    @pytest.mark.parametrize("key", MALFORMED)
    async def test_malformed_key_is_refused(self, files: Files, key: str) -> None:
        """No key leads out of its folder, for any call."""
        with pytest.raises(ValueError, match="not a file key"):
            await files.put(key, b"")
        with pytest.raises(ValueError, match="not a file key"):
            await files.get(key)
        with pytest.raises(ValueError, match="not a file key"):
            await files.open(key)
        with pytest.raises(ValueError, match="not a file key"):
            await files.delete([KEY, key])

    async def test_check_leaves_nothing(self, files: Files) -> None:
        """The probe of the health check is gone when it returns."""
        await files.check()
        assert await keys_of(files) == []

    async def test_free_bytes_is_positive_or_unknown(self, files: Files) -> None:
        """A storage with a limit says how much room is left."""
        free = await files.free_bytes()
        assert free is None or free > 0

    async def test_link_is_absolute_or_none(self, files: Files) -> None:
        """A storage that serves files itself gives a URL, any other none."""
        await files.put(KEY, b"photo")
        link = await files.link(KEY, method="GET", seconds=60)
        assert link is None or link.startswith(("http://", "https://"))
