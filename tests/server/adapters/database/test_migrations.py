"""Migrations from nothing to the newest schema and back, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import alembic.command
import alembic.config
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Index, inspect, text
from sqlalchemy.schema import SchemaItem

from server.adapters.database import migrations, tables
from server.adapters.database.database import open_database
from server.adapters.database.engine import create_engine
from server.config.settings import Config
from server.system.clock import SystemClock
from testkit.expansion import expand
from testkit.plugin import note
from testkit.processes import ROOT
from testkit.running import new_session


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database without tables; on SQLite without even a file."""
    if request.param == "postgresql":
        note(request, "PostgreSQL")
        return str(request.getfixturevalue("empty_postgres_url"))
    return f"sqlite+aiosqlite:///{tmp_path / 'new' / 'tryon.sqlite3'}"


@pytest.fixture
def config(empty_url: str, tmp_path: Path) -> Config:
    return Config(data_dir=tmp_path / "new", database_url=empty_url)


async def migrate(config: Config) -> None:
    await asyncio.to_thread(migrations.migrate, config)


@contextlib.asynccontextmanager
async def connected(config: Config) -> AsyncIterator[Callable[..., object]]:
    """Give a caller for functions of a synchronous connection."""
    engine = create_engine(config.database)
    try:
        async with engine.connect() as connection:
            yield connection.run_sync
    finally:
        await engine.dispose()


def differences(connection: Connection) -> list[object]:
    def applies(thing: SchemaItem, name: str | None, kind: str, reflected: bool, other: SchemaItem | None) -> bool:
        only_there = isinstance(thing, Index) and thing.name in ("ix_tryon_events_xact", "ix_tryon_gone_xact")
        return not (only_there and connection.dialect.name == "sqlite")  # Alembic ignores ddl_if

    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True, "include_object": applies}
    )
    return list(compare_metadata(context, tables.metadata))


def table_names(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def indexes(connection: Connection) -> dict[str, set[str | None]]:
    names = [table.name for table in tables.metadata.sorted_tables]
    return {name: {index["name"] for index in inspect(connection).get_indexes(name)} for name in names}


def alembic_settings(config: Config, monkeypatch: pytest.MonkeyPatch) -> alembic.config.Config:
    monkeypatch.setenv("TRYON_DATABASE_URL", config.database)
    monkeypatch.chdir(config.data_dir)  # away from a developer's own .env
    settings = alembic.config.Config()
    settings.set_main_option("script_location", str(migrations.script_directory()))
    return settings


async def test_migrations_create_tables_of_the_code(config: Config) -> None:
    await migrate(config)
    async with connected(config) as run:
        assert await run(differences) == []  # type: ignore[misc]


async def test_migrations_create_same_indexes_as_metadata(config: Config, tmp_path: Path) -> None:
    await migrate(config)
    async with connected(config) as run:
        migrated = await run(indexes)  # type: ignore[misc]
        await run(tables.metadata.drop_all)  # type: ignore[misc]
        await run(tables.metadata.create_all)  # type: ignore[misc]
        assert await run(indexes) == migrated  # type: ignore[misc]


async def test_second_migration_changes_nothing(config: Config) -> None:
    await migrate(config)
    database = open_database(config.database, clock=SystemClock())
    session = await database.writer.insert(new_session())
    await migrate(config)
    assert await database.reader.get(session.id) == session
    await database.close()


async def test_open_database_survives_schema_expansion(config: Config) -> None:
    """The next release expands the schema while this one is connected."""
    await migrate(config)
    database = open_database(config.database, clock=SystemClock())

    async def run() -> None:
        session = await database.writer.insert(new_session())
        assert await database.writer.claim(session.id, worker="w", lease_seconds=60, actor="w")
        found = await database.reader.with_events(session.id, 0)
        assert found is not None and [event.seq for event in found.events] == [1, 2]
        assert await database.writer.erase([session.id]) == [found.session]

    await run()  # the connections have these statements prepared now
    session = await database.writer.insert(new_session())
    await expand(config.database)
    assert await database.reader.get(session.id) == session
    await run()
    await migrate(config)
    assert await database.reader.get(session.id) == session
    await database.close()


async def tryon_migrate(config: Config) -> tuple[int | None, str]:
    """Run ``tryon migrate`` as a process; return its exit status and output."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("TRYON_")} | {
        "TRYON_DATA_DIR": str(config.data_dir),
        "TRYON_DATABASE_URL": config.database,
        "PYTHONPATH": str(ROOT),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "migrate"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_two_processes_migrate_at_once(config: Config) -> None:
    results = await asyncio.gather(tryon_migrate(config), tryon_migrate(config))
    assert [status for status, _ in results] == [0, 0], results
    async with connected(config) as run:
        assert await run(differences) == []  # type: ignore[misc]


async def test_downgrade_leads_to_empty_database(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(config)
    settings = alembic_settings(config, monkeypatch)
    await asyncio.to_thread(alembic.command.downgrade, settings, "base")
    async with connected(config) as run:
        assert await run(table_names) <= {"alembic_version"}  # type: ignore[misc]
    await migrate(config)
    async with connected(config) as run:
        assert await run(differences) == []  # type: ignore[misc]


async def test_sessions_survive_upgrade_and_downgrade(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of the newest schema are the same on the first, and back again."""
    config.data_dir.mkdir()
    settings = alembic_settings(config, monkeypatch)
    await asyncio.to_thread(alembic.command.upgrade, settings, "head")
    database = open_database(config.database, clock=SystemClock())
    waiting, running = await database.writer.insert(new_session()), await database.writer.insert(new_session())
    claimed = await database.writer.claim(running.id, worker="w", lease_seconds=60, actor="w")
    assert claimed is not None
    await database.close()  # whose statements know the newest schema alone
    await asyncio.to_thread(alembic.command.downgrade, settings, "0001")
    async with connected(config) as run:
        keys = await run(
            lambda connection: connection.execute(text("SELECT input_key FROM tryon_sessions")).scalars().all()
        )  # type: ignore[misc]
        assert set(keys) == {each.inputs[0].key for each in (waiting, running)}
    await asyncio.to_thread(alembic.command.upgrade, settings, "head")
    database = open_database(config.database, clock=SystemClock())
    assert await database.reader.get(waiting.id) == waiting
    assert await database.reader.get(running.id) == claimed.session
    assert await database.due.next_due() == claimed.session.lease_expires_at
    await database.close()
    async with connected(config) as run:
        assert await run(differences) == []  # type: ignore[misc]


async def test_migration_makes_files_of_keys(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photos and results that older rows name are found by role and by type."""
    await migrate(config)
    settings = alembic_settings(config, monkeypatch)
    database = open_database(config.database, clock=SystemClock())
    session = await database.writer.insert(new_session())
    await database.close()
    await asyncio.to_thread(alembic.command.downgrade, settings, "0003")
    old = "UPDATE tryon_sessions SET input_key = 'inputs/p.png', garment_key = 'inputs/g.webp', output_key = 'outputs/r.jpg'"
    async with connected(config) as run:
        await run(lambda connection: (connection.execute(text(old)), connection.commit()))  # type: ignore[misc]
    await migrate(config)
    database = open_database(config.database, clock=SystemClock())
    found = await database.reader.get(session.id)
    await database.close()
    assert found is not None
    assert [(file.direction, file.role, file.key, file.type) for file in found.files] == [
        ("input", "person", "inputs/p.png", "image/png"),
        ("input", "garment", "inputs/g.webp", "image/webp"),
        ("output", "result", "outputs/r.jpg", "image/jpeg"),
    ]


async def test_newer_schema_is_reported_in_one_line(config: Config) -> None:
    """The database was migrated by a release that this one does not know."""
    await migrate(config)
    async with connected(config) as run:
        await run(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))  # type: ignore[misc]
        await run(lambda connection: connection.commit())  # type: ignore[misc]
    status, output = await tryon_migrate(config)
    assert (status, output.count("\n")) == (2, 1), output
    assert output.startswith("tryon: TRYON_DATABASE_URL: the database has the schema '9999' of a newer release"), output


@pytest.mark.parametrize("name", ["what? #1", "50% %41"])
async def test_sqlite_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    """The database is made and opened in a data folder of that name."""
    folder = tmp_path / name
    await migrate(Config(data_dir=folder))
    database = open_database(Config(data_dir=folder).database, clock=SystemClock())
    await database.writer.insert(new_session())
    await database.close()
    assert (folder / "tryon.sqlite3").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_unusable_database_is_reported_in_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    url = {
        "postgresql": "postgresql+asyncpg://nobody:secret@127.0.0.1:1/x",
        "sqlite": f"sqlite+aiosqlite:///{tmp_path}/file/x",
    }[kind]
    status, output = await tryon_migrate(Config(data_dir=tmp_path, database_url=url))
    assert status == 2
    assert output.startswith("tryon: TRYON_DATABASE_URL: ") and output.count("\n") == 1, output
    assert "secret" not in output
