"""Files in a local folder: the contract, and what only a folder promises."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from server.adapters.files import local, threads
from server.adapters.files.local import LocalFiles
from server.adapters.files.port import MissingFile
from server.adapters.files.threads import StorageThreads
from testkit.disks import silent_disk
from testkit.running import until
from tests.server.adapters.files.contract import KEY, OTHER, SESSION, FilesContract
from tryon.protocol.errors import StorageFull, Unavailable


async def opened(root: Path) -> LocalFiles:
    """Return the storage in a folder."""
    files = LocalFiles(root, StorageThreads())
    await files.make_folders()
    return files


@pytest.fixture
async def files(tmp_path: Path) -> LocalFiles:
    return await opened(tmp_path / "uploads")


def everything(files: LocalFiles) -> list[str]:
    """Return every file below the root, drafts included."""
    return sorted(str(path.relative_to(files.root)) for path in files.root.rglob("*") if path.is_file())


def make_older(files: LocalFiles, key: str, seconds: float) -> None:
    """Set the time of writing back."""
    written = (files.root / key).stat().st_mtime - seconds
    os.utime(files.root / key, (written, written))


def free(folder: Path) -> int:
    """Return how many bytes this user can still write."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class TestLocalFiles(FilesContract):
    """Every guarantee of the port."""


async def test_files_are_readable_by_their_owner_alone(files: LocalFiles) -> None:
    """Other users of the machine see neither photos nor their names."""
    await files.put(KEY, b"photo")
    assert stat.S_IMODE((files.root / KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE((files.root / KEY).parent.stat().st_mode) == 0o700


async def test_put_leaves_no_draft_behind(files: LocalFiles) -> None:
    """After concurrent writes only the file itself is there."""
    await asyncio.gather(*(files.put(KEY, bytes([number]) * 100_000) for number in range(10)))
    assert everything(files) == [KEY]


async def test_cancelled_read_ends_before_its_file_is_closed(files: LocalFiles) -> None:
    """However often it is cancelled: a closed descriptor soon is another file's."""
    begun, go_on = threading.Event(), threading.Event()
    story = []

    class Slow:
        closed = False

        def read(self, count: int) -> bytes:
            begun.set()
            go_on.wait()
            story.append("read")
            return b""

        def close(self) -> None:
            story.append("closed")

    await files.put(KEY, b"photo")
    opened: Any = await files.open(KEY)
    opened._file.close()
    opened._file = Slow()

    async def download() -> None:
        try:
            await opened.read(5)
        finally:
            await opened.aclose()

    downloading = asyncio.create_task(download())
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        downloading.cancel()
        await asyncio.sleep(0)
    assert story == []
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await downloading
    assert story == ["read", "closed"]


async def test_put_cancelled_while_its_draft_opens(files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft that a thread is about to create is deleted, off the loop."""
    begun, go_on = threading.Event(), threading.Event()
    os_open, unlink, unlinked_by = os.open, Path.unlink, []

    def slow(*what: Any, **more: Any) -> int:
        begun.set()
        go_on.wait()
        return os_open(*what, **more)

    def noted(path: Path, missing_ok: bool = False) -> None:
        unlinked_by.append(threading.get_ident())
        unlink(path, missing_ok=missing_ok)

    async def none() -> Any:
        yield b""

    monkeypatch.setattr(os, "open", slow)
    monkeypatch.setattr(Path, "unlink", noted)
    putting = asyncio.ensure_future(files.put(KEY, none()))
    await asyncio.to_thread(begun.wait)
    putting.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert everything(files) == []
    assert unlinked_by and threading.get_ident() not in unlinked_by


async def test_list_reads_no_folder_before_its_page(files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that begins among the results does not list the photos again."""
    for key in (KEY, OTHER):
        await files.put(key, b"photo")
    read = []
    listdir = os.listdir

    def noted(path: Path) -> list[str]:
        read.append(path.name)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", noted)
    assert [entry.key for entry in (await files.list_page(after=KEY)).entries] == [OTHER]
    assert read == ["inputs", "outputs", "previews"]
    assert (await files.list_page(after=OTHER)).entries == []
    assert read[3:] == ["outputs", "previews"]


async def test_list_returns_the_age_of_old_files(files: LocalFiles) -> None:
    """Age counts from the time of writing."""
    await files.put(KEY, b"photo")
    await files.put(OTHER, b"result")
    make_older(files, KEY, 3600)
    ages = {entry.key: entry.age_seconds for entry in (await files.list_page()).entries}
    assert set(ages) == {KEY, OTHER}
    assert 3600 <= ages[KEY] < 3700
    assert 0 <= ages[OTHER] < 100


@pytest.mark.parametrize("sign", [1, -1])
async def test_age_does_not_follow_this_machines_clock(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    """A file server's clock may be a day off: a photo in flight is no orphan."""
    await files.put(KEY, b"photo")
    await files.put(OTHER, b"result")
    make_older(files, OTHER, 3600)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + sign * 25 * 3600)
    ages = {entry.key: entry.age_seconds for entry in (await files.list_page()).entries}
    assert 0 <= ages[KEY] < 100
    assert 3600 <= ages[OTHER] < 3700


async def test_list_works_on_a_full_disk(small_disk: Path) -> None:
    """The files that could make room are found, with their age."""
    files = await opened(small_disk)
    await files.put(KEY, b"photo")
    make_older(files, KEY, 7200)
    (small_disk / "filler").write_bytes(bytes(free(small_disk)))
    with pytest.raises(StorageFull):
        await files.check()
    [entry] = (await files.list_page()).entries
    assert entry.age_seconds >= 7200


async def test_list_leaves_foreign_names_out(files: LocalFiles) -> None:
    """Names that the product cannot have written are no entries."""
    await files.put(KEY, b"photo")
    for name in (".DS_Store", ".hidden", "no-extension"):
        (files.root / "inputs" / name).write_bytes(b"")
    (files.root / "outputs" / "folder").mkdir()
    assert [entry.key for entry in (await files.list_page()).entries] == [KEY]


async def test_draft_name_is_no_key_to_read(files: LocalFiles) -> None:
    """Only a deletion accepts the name of an unfinished file."""
    draft = f"{KEY}.0123456789abcdef.part"
    with pytest.raises(ValueError, match="not a file key"):
        await files.get(draft)
    with pytest.raises(ValueError, match="not a file key"):
        await files.put(draft, b"")
    assert await files.delete([draft]) == []


async def test_killed_writer_leaves_a_deletable_draft(files: LocalFiles) -> None:
    """SIGKILL before the rename leaves an unfinished entry and no object."""
    script = (
        "import asyncio, os, signal, sys, pathlib\n"
        "from server.adapters.files.local import LocalFiles\n"
        "from server.adapters.files.threads import StorageThreads\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "async def main():\n"
        "    files = LocalFiles(pathlib.Path(sys.argv[1]), StorageThreads())\n"
        "    await files.put(sys.argv[2], b'half')\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(files.root), KEY], cwd=Path(__file__).parents[4], check=False
    )
    assert process.returncode == -9
    with pytest.raises(MissingFile):
        await files.get(KEY)
    [entry] = (await files.list_page()).entries
    assert entry.key.startswith(f"{KEY}.")
    assert entry.unfinished
    assert await files.delete([entry.key]) == [entry.key]
    assert everything(files) == []


async def test_full_disk_is_reported_and_leaves_nothing(small_disk: Path) -> None:
    """A write that does not fit raises StorageFull and removes its draft."""
    files = await opened(small_disk)
    await files.check()
    with pytest.raises(StorageFull):
        await files.put(KEY, bytes(1_000_000))
    assert everything(files) == []
    await files.put(OTHER, bytes(240_000))
    with pytest.raises(StorageFull):
        await files.put(KEY, bytes(32_768))
    (small_disk / "filler").write_bytes(bytes(free(small_disk)))
    with pytest.raises(StorageFull):
        await files.check()


async def test_missing_folder_is_unavailable(files: LocalFiles) -> None:
    """A storage whose folder vanished is unavailable, not empty."""
    await files.check()
    for folder in ("inputs", "outputs"):
        (files.root / folder).rmdir()
    with pytest.raises(Unavailable):
        await files.put(KEY, b"")
    with pytest.raises(Unavailable):
        await files.check()
    with pytest.raises(Unavailable):
        await files.list_page()
    with pytest.raises(Unavailable):
        await files.outputs_of(["01a203e0-0000-7000-8000-000000000001"])


async def test_dirty_folder_stops_no_listing(files: LocalFiles) -> None:
    """Foreign names, folders, links and pipes are counted, and are no entries."""
    await files.put(KEY, b"photo")
    await files.put(OTHER, b"result")
    inputs, outputs = os.fsencode(files.root / "inputs"), os.fsencode(files.root / "outputs")
    for foreign in (b"Thumbs", b"\xff\xfe.jpg", b"x" * 255, b".nfs0001", b"a b.jpg", b"\n.jpg"):
        Path(os.fsdecode(outputs + b"/" + foreign)).write_bytes(b"")
    os.mkdir(inputs + b"/folder.jpg")
    os.symlink(inputs + b"/nowhere", inputs + b"/link.jpg")
    os.mkfifo(inputs + b"/pipe.jpg")
    page = await files.list_page()
    assert [entry.key for entry in page.entries] == [KEY, OTHER]
    assert page.foreign == 9
    pages = [await files.list_page(limit=1)]
    while pages[-1].after is not None:
        pages.append(await files.list_page(after=pages[-1].after, limit=1))
    assert [entry.key for page in pages for entry in page.entries] == [KEY, OTHER]
    assert sum(page.foreign for page in pages) == 9, "each counted once, on whichever page"


async def test_outputs_of_leaves_folders_out(files: LocalFiles) -> None:
    """A folder with a result's name does not keep a session from being erased."""
    await files.put(OTHER, b"result")
    (files.root / OTHER.replace("-1.", "-2.")).mkdir()
    assert await files.outputs_of([SESSION]) == [OTHER]


async def test_undeletable_file_stops_no_other(files: LocalFiles) -> None:
    """The rest of one call is deleted, then the call fails."""
    await files.put(OTHER, b"result")
    (files.root / KEY).mkdir()
    with pytest.raises(Unavailable):
        await files.delete([KEY, OTHER])
    assert everything(files) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path)])
async def test_only_plain_files_are_read(files: LocalFiles, make: Any) -> None:
    """Nothing waits for a pipe's writer, and no link leads out of the storage."""
    make(files.root / KEY)
    async with asyncio.timeout(20):
        for call in (files.get, files.open):
            with pytest.raises(Unavailable):
                await call(KEY)


async def test_silent_storage_is_unavailable_and_loses_nothing(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call ends, an interrupted write leaves nothing, and all works again."""
    await files.put(OTHER, b"result")
    for name in ("ANSWER_SECONDS", "CANCEL_SECONDS"):
        monkeypatch.setattr(threads, name, 0.1)
    monkeypatch.setattr(local, "LISTING_SECONDS", 0.1)
    try:
        with silent_disk(files.root / "inputs"), silent_disk(files.root / "outputs"):
            calls = (
                lambda: files.put(KEY, b"photo"),
                lambda: files.get(OTHER),
                lambda: files.open(OTHER),
                lambda: files.delete([OTHER]),
                lambda: files.outputs_of([SESSION]),
                files.list_page,
                files.check,
            )
            async with asyncio.timeout(10):
                for call in calls:
                    with pytest.raises(Unavailable):
                        await call()
    except PermissionError as error:
        pytest.skip(str(error))
    await until(lambda: files._threads._held == 0)
    monkeypatch.undo()
    assert everything(files) == [OTHER]
    assert await files.get(OTHER) == b"result"


async def test_write_that_comes_too_late_is_discarded(files: LocalFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage answers after the caller has given up: nothing of it is stored."""
    begun, go_on = threading.Event(), threading.Event()
    os_open = os.open

    def slow(*what: Any, **more: Any) -> int:
        begun.set()
        go_on.wait()
        return os_open(*what, **more)

    monkeypatch.setattr(threads, "ANSWER_SECONDS", 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", slow)
        with pytest.raises(Unavailable):
            await files.put(KEY, b"photo")
        assert begun.is_set()
        go_on.set()
        await until(lambda: files._threads._held == 0)
    assert everything(files) == []
