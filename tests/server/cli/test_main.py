"""Every command of `tryon` makes private files, and answers in JSON on demand."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import click
import pytest

from server.cli.main import cli
from testkit.fixtures import StartStack

WITHOUT_JSON = {"up", "serve", "worker", "migrate", "completion", "probe"}
"""Commands that answer nothing: they serve, and log, print a script, or exit."""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Begin with the umask that most systems have."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def readable_by_others(folder: Path) -> list[str]:
    """Return the folder and everything in it that another user could open."""
    return [str(path) for path in (folder, *folder.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]


@pytest.mark.sqlite
async def test_migrate_alone_makes_a_private_database(stack: StartStack, tmp_path: Path) -> None:
    """The folder and the database are readable by their owner alone."""
    data = tmp_path / "data"
    migrated = await stack("migrate", ready=False, TRYON_DATA_DIR=str(data))
    assert await migrated.wait() == 0
    assert (data / "tryon.sqlite3").exists()
    assert readable_by_others(data) == []


@pytest.mark.sqlite
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


def leaves(commands: Mapping[str, click.Command], name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is no group, with its whole name."""
    for each, command in commands.items():
        whole = f"{name} {each}".strip()
        if isinstance(command, click.Group):
            yield from leaves(command.commands, whole)
        else:
            yield whole, command


def test_every_command_that_answers_has_json() -> None:
    """By the same option."""
    without = {
        name for name, command in leaves(cli.commands) if "--json" not in {o for p in command.params for o in p.opts}
    }
    assert without == WITHOUT_JSON
