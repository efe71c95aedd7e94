"""Every command of `tryon` makes files that other users cannot read."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from testkit.fixtures import StartStack


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Begin with the umask that most systems have."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def readable_by_others(folder: Path) -> list[str]:
    """Return the folder and everything in it that another user could open."""
    return [str(path) for path in (folder, *folder.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]


async def test_migrate_alone_makes_a_private_database(stack: StartStack, tmp_path: Path) -> None:
    """The folder and the database are readable by their owner alone."""
    data = tmp_path / "data"
    migrated = await stack("migrate", ready=False, TRYON_DATA_DIR=str(data))
    assert await migrated.wait() == 0
    assert (data / "tryon.sqlite3").exists()
    assert readable_by_others(data) == []


async def test_migrate_closes_a_database_that_others_can_read(stack: StartStack, tmp_path: Path) -> None:
    """A database of an earlier release, and the log that SQLite keeps beside it."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with closing(sqlite3.connect(data / "tryon.sqlite3")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE other (id)")
        assert readable_by_others(data)
        migrated = await stack("migrate", ready=False, TRYON_DATA_DIR=str(data))
        assert await migrated.wait() == 0
        assert readable_by_others(data) == []
