"""What a store of files promises; today there is one, :class:`LocalFiles`."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.adapters.files.local import LocalFiles, MissingFile
from tryon.protocol.errors import StorageFull, Unavailable

KEY = "inputs/0199aaaa-0000-7000-8000-000000000001-image.jpg"
OTHER = "outputs/0199aaaa-0000-7000-8000-000000000001-1.png"


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "uploads")


def everything(files: LocalFiles) -> list[str]:
    return sorted(str(path.relative_to(files.root)) for path in files.root.rglob("*") if path.is_file())


async def test_what_was_put_can_be_got_and_only_its_owner_may_read_it(files: LocalFiles) -> None:
    await files.put(KEY, b"photo")
    assert await files.get(KEY) == b"photo"
    assert stat.S_IMODE(files.path(KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(files.path(KEY).parent.stat().st_mode) == 0o700


async def test_a_put_replaces_the_whole_file(files: LocalFiles) -> None:
    await files.put(KEY, b"a longer first version")
    await files.put(KEY, b"short")
    assert await files.get(KEY) == b"short"
    assert everything(files) == [KEY]


async def test_a_reader_sees_the_old_or_the_new_file_never_half_of_one(files: LocalFiles) -> None:
    versions = [bytes([n]) * 300_000 for n in range(8)]
    await files.put(KEY, versions[0])
    writes = asyncio.gather(*(files.put(KEY, version) for version in versions))
    for data in await asyncio.gather(*(files.get(KEY) for _ in range(20))):
        assert data in versions
    await writes
    assert everything(files) == [KEY]


async def test_a_missing_file_is_said_to_be_missing(files: LocalFiles) -> None:
    with pytest.raises(MissingFile):
        await files.get(KEY)


async def test_delete_tells_what_was_there(files: LocalFiles) -> None:
    await files.put(KEY, b"photo")
    assert await files.delete([OTHER, KEY]) == [KEY]
    assert await files.delete([OTHER, KEY]) == []
    assert everything(files) == []


async def test_keys_come_with_their_age(files: LocalFiles) -> None:
    await files.put(KEY, b"photo")
    await files.put(OTHER, b"result")
    now = files.path(OTHER).stat().st_mtime
    os.utime(files.path(KEY), (now - 3600, now - 3600))
    ages = dict(await files.keys())
    assert set(ages) == {KEY, OTHER}
    assert 3600 <= ages[KEY] < 3700
    assert 0 <= ages[OTHER] < 100


@pytest.mark.parametrize("sign", [1, -1])
async def test_the_age_of_a_file_does_not_follow_this_machines_clock(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    """It may be a day off from the clock of a file server: a photo in flight would be
    swept away as an orphan.
    """
    await files.put(KEY, b"photo")
    await files.put(OTHER, b"result")
    now = files.path(OTHER).stat().st_mtime
    os.utime(files.path(OTHER), (now - 3600, now - 3600))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + sign * 25 * 3600)
    ages = dict(await files.keys())
    assert 0 <= ages[KEY] < 100
    assert 3600 <= ages[OTHER] < 3700


async def test_files_have_their_age_on_a_full_disk_too(small_disk: Path) -> None:
    files = LocalFiles(small_disk)
    await files.put(KEY, b"photo")
    old = files.path(KEY).stat().st_mtime - 7200
    os.utime(files.path(KEY), (old, old))
    (small_disk / "filler").write_bytes(bytes(small_disk_free(small_disk)))
    with pytest.raises(StorageFull):
        await files.check()
    [(_, age)] = await files.keys()
    assert age >= 7200, "what could make room is found"


@pytest.mark.parametrize(
    "key",
    [
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
        "inputs/a.jpg.0123456789abcdef.part",
        f"inputs/{'a' * 200}.jpg",
    ],
)
async def test_no_key_leads_out_of_the_folder(files: LocalFiles, key: str) -> None:
    with pytest.raises(ValueError, match="not a file key"):
        await files.put(key, b"")
    with pytest.raises(ValueError, match="not a file key"):
        await files.get(key)
    if not key.endswith(".part"):
        with pytest.raises(ValueError, match="not a file key"):
            await files.delete([key])


async def test_a_killed_writer_leaves_a_draft_that_can_be_listed_and_deleted(files: LocalFiles) -> None:
    script = (
        "import os, signal, sys, pathlib\n"
        "from server.adapters.files.local import LocalFiles\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files = LocalFiles(pathlib.Path(sys.argv[1]))\n"
        "files._put(files.path(sys.argv[2]), b'half')\n"
    )
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(files.root), KEY], cwd=Path(__file__).parents[4], check=False
    )
    assert process.returncode == -9
    with pytest.raises(MissingFile):
        await files.get(KEY)
    [(draft, _)] = await files.keys()
    assert draft.startswith(f"{KEY}.")
    assert draft.endswith(".part")
    assert await files.delete([draft]) == [draft]
    assert everything(files) == []


def small_disk_free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


async def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    files = LocalFiles(small_disk)
    await files.check()
    with pytest.raises(StorageFull):
        await files.put(KEY, bytes(1_000_000))
    assert everything(files) == []
    await files.put(OTHER, bytes(240_000))
    with pytest.raises(StorageFull):
        await files.put(KEY, bytes(32_768))
    (small_disk / "filler").write_bytes(bytes(small_disk_free(small_disk)))
    with pytest.raises(StorageFull):
        await files.check()


async def test_a_folder_that_is_gone_is_unavailable(files: LocalFiles) -> None:
    await files.check()
    for folder in ("inputs", "outputs"):
        (files.root / folder).rmdir()
    with pytest.raises(Unavailable):
        await files.put(KEY, b"")
    with pytest.raises(Unavailable):
        await files.check()
    with pytest.raises(Unavailable):
        await files.keys()


async def test_a_check_leaves_nothing(files: LocalFiles) -> None:
    await files.check()
    assert everything(files) == []
