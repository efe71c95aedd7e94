"""Room that is kept on a disk: allocated files, and a reserve that processes share."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.system.disk_space import Reserve, allocate, require_room, reserve_bytes
from testkit.fixtures import disk_of
from testkit.processes import environment

MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 16 MiB: its reserve is one."""
    with disk_of(tmp_path / "disk", "16m") as folder:
        yield folder


@pytest.fixture
def reserve(disk: Path) -> Reserve:
    return Reserve(disk / "reserve")


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


def test_reserve_is_released_and_taken_back(disk: Path, reserve: Reserve) -> None:
    """Give up the file on a full disk; take it back when there is room for it."""
    assert reserve.adjust()
    assert reserve.path.stat().st_blocks * 512 == MIB
    fill(disk, but=MIB // 8)
    assert reserve.adjust()
    filler = fill(disk, but=MIB // 8 - 4096)
    assert not reserve.adjust()
    assert not reserve.path.exists()
    assert not reserve.adjust(), "its own room is not enough to take it back"
    filler.unlink()
    assert reserve.adjust()
    assert reserve.path.stat().st_blocks * 512 == MIB


def test_released_reserve_is_not_for_photos(disk: Path, reserve: Reserve) -> None:
    """Refuse other files while the reserve is released, and just before."""
    reserve.adjust()
    require_room(disk, 10 * MIB)
    fill(disk, but=MIB // 8 - 4096)
    reserve.adjust()
    assert free(disk) > MIB
    with pytest.raises(OSError, match="No space"):
        require_room(disk, 1)


def test_folder_that_is_gone_counts_as_room(tmp_path: Path) -> None:
    """Leave it to the write itself to find out."""
    assert Reserve(tmp_path / "gone" / "reserve").adjust()


def test_processes_share_one_reserve(disk: Path) -> None:
    """Adjust from several processes while the disk fills and empties.

    In the end the file has its size once, and no process has failed.
    """
    code = f"""
import sys
from pathlib import Path
from server.system.disk_space import Reserve
reserve = Reserve(Path({str(disk / "reserve")!r}))
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
    for _ in range(40):
        try:
            (disk / "filler").write_bytes(bytes(16 * MIB))
        except OSError:
            (disk / "filler").unlink()
    (disk / "end").touch()
    for racer in racers:
        _, errors = racer.communicate(timeout=30)
        assert racer.returncode == 0, errors
    reserve = Reserve(disk / "reserve")
    assert reserve.adjust()
    assert reserve.path.stat().st_blocks * 512 == MIB
    assert free(disk) >= 14 * MIB
