"""Room that is kept on a disk: allocated files, and a reserve that processes share."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.system.disk_space import Reserve, allocate, require_room, reserve_bytes
from testkit.fixtures import disk_of
from testkit.processes import environment

MIB = 2**20
RESERVE = MIB * 9 // 8


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 16 MiB: its reserve is one."""
    with disk_of(tmp_path / "disk", "16m") as folder:
        yield folder


@pytest.fixture
def reserve(disk: Path) -> Reserve:
    return Reserve(disk / "tryon.sqlite3")


@pytest.fixture
def log(disk: Path) -> Path:
    """Make the log of the reserve's database, as SQLite does."""
    path = disk / "tryon.sqlite3-wal"
    path.touch()
    return path


def blocks(path: Path) -> int:
    """Return how much room a file takes."""
    return path.stat().st_blocks * 512


def free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def fill(folder: Path, *, but: int) -> Path:
    """Leave this much free on the disk."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    filler.write_bytes(bytes(free(folder) - but))
    return filler


@pytest.mark.parametrize(("disk_bytes", "size"), [(MIB, MIB // 16), (128 * MIB, 8 * MIB), (2**40, 8 * MIB)])
def test_reserve_grows_with_its_disk(disk_bytes: int, size: int) -> None:
    """Take a 16th of a disk, and 8 MiB at most."""
    assert reserve_bytes(disk_bytes) == size


def test_allocated_file_has_all_its_blocks(tmp_path: Path) -> None:
    """Allocate what is missing and keep what is there."""
    path = tmp_path / "file"
    path.write_bytes(b"kept")
    with path.open("r+b") as file:
        allocate(file.fileno(), MIB)
        assert os.fstat(file.fileno()).st_blocks * 512 >= MIB
        assert file.read(5) == b"kept\0"


def test_allocation_without_room_is_refused(disk: Path) -> None:
    """Raise ENOSPC instead of leaving a hole."""
    with (disk / "file").open("wb") as file, pytest.raises(OSError, match="No space") as refused:
        allocate(file.fileno(), 20 * MIB)
    assert refused.value.errno == errno.ENOSPC


def test_log_and_reserve_are_allocated(disk: Path, reserve: Reserve, log: Path) -> None:
    """Give log and reserve their size, and keep it while the disk is full."""
    assert reserve.adjust()
    assert (blocks(log), blocks(reserve.path)) == (MIB, RESERVE)
    fill(disk, but=0)
    assert not reserve.adjust()
    assert (blocks(log), blocks(reserve.path)) == (MIB, RESERVE)


def test_reserve_makes_a_short_log_whole(disk: Path, reserve: Reserve, log: Path) -> None:
    """Turn the reserve into the log on a full disk; take it back when there is room."""
    reserve.adjust()
    fill(disk, but=0)
    log.write_bytes(b"")
    filler = fill(disk, but=0)
    assert not reserve.adjust()
    assert not reserve.path.exists()
    assert blocks(log) == MIB
    assert free(disk) == RESERVE - MIB, "little was left to other programs"
    assert not reserve.adjust()
    filler.unlink()
    assert reserve.adjust()
    assert (blocks(log), blocks(reserve.path)) == (MIB, RESERVE)


def test_log_takes_what_is_left(disk: Path, reserve: Reserve, log: Path) -> None:
    """Allocate half of a log where there is no room for all of it."""
    fill(disk, but=MIB * 3 // 4)
    assert not reserve.adjust()
    assert blocks(log) == MIB // 2


def test_missing_log_is_left_to_sqlite(disk: Path) -> None:
    """Release the reserve for a start on a full disk, and make no log."""
    reserve = Reserve(disk / "new.sqlite3")
    reserve.adjust()
    fill(disk, but=0)
    assert not reserve.adjust()
    assert not reserve.path.exists()
    assert not (disk / "new.sqlite3-wal").exists()
    assert free(disk) == RESERVE


def test_released_reserve_is_not_for_photos(disk: Path, reserve: Reserve) -> None:
    """Refuse other files while the reserve is released."""
    reserve.adjust()
    require_room(disk, 10 * MIB)
    fill(disk, but=4096)
    reserve.release()
    assert free(disk) > MIB
    assert not reserve.adjust()
    with pytest.raises(OSError, match="No space"):
        require_room(disk, 1)


NO_FALLOCATE = """
import ctypes, errno, platform, struct
number = {"x86_64": 285, "aarch64": 47}[platform.machine()]
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno.EOPNOTSUPP), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("HL", len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
"""
"""Has the kernel (seccomp) refuse fallocate(2), as file systems without it do."""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the system call's number")
@pytest.mark.skipif(sys.platform != "linux", reason="seccomp")
def test_log_stays_sqlites_where_nothing_can_be_allocated(disk: Path, log: Path) -> None:
    """Write not one byte to the log, not even zeros, without fallocate; reserve room.

    The C library's own way of allocating overwrites what another process writes.
    """
    log.write_bytes(b"frames")
    code = f"""{NO_FALLOCATE}
from pathlib import Path
from server.system.disk_space import Reserve
reserve = Reserve(Path({str(disk / "tryon.sqlite3")!r}))
print(reserve.adjust(), reserve.adjust())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "True True\n"
    assert log.read_bytes() == b"frames"
    assert blocks(disk / "tryon.sqlite3-reserve") == RESERVE


def test_disk_of_unknown_size_takes_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse nothing, and reserve nothing, where a network share tells no size."""
    known = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_frsize=known.f_frsize, f_blocks=0, f_bavail=0))
    require_room(tmp_path, MIB)
    reserve = Reserve(tmp_path / "tryon.sqlite3")
    assert reserve.adjust()
    assert not reserve.path.exists()


def test_folder_that_is_gone_counts_as_room(tmp_path: Path) -> None:
    """Leave it to the write itself to find out."""
    assert Reserve(tmp_path / "gone" / "tryon.sqlite3").adjust()


def test_processes_share_one_reserve(disk: Path, reserve: Reserve, log: Path) -> None:
    """Adjust from several processes while the disk fills and empties.

    In the end the file has its size once, and no process has failed.
    """
    code = f"""
import sys
from pathlib import Path
from server.system.disk_space import Reserve
reserve = Reserve(Path({str(disk / "tryon.sqlite3")!r}))
print("ready", flush=True)
while not Path({str(disk / "end")!r}).exists():
    reserve.adjust()
"""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for _ in range(10):
        try:
            (disk / "filler").write_bytes(bytes(16 * MIB))
        except OSError:
            log.write_bytes(b"")  # as emptying it does
            (disk / "filler").unlink()
    (disk / "end").touch()
    for racer in racers:
        _, errors = racer.communicate(timeout=30)
        assert racer.returncode == 0, errors
    assert reserve.adjust()
    assert (blocks(log), blocks(reserve.path)) == (MIB, RESERVE)
    assert free(disk) >= 13 * MIB
