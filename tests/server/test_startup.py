"""Causes that keep a process from its work are named at its start, in one line."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.config.settings import Config, ConfigError
from server.startup import check_folder, check_start
from testkit.fixtures import StartStack, StartValkey
from testkit.servers import PostgresServer

MakeConfig = Callable[..., Config]


async def refusal(config: Config) -> str:
    """Return the line that a process with these settings ends with."""
    with pytest.raises(ConfigError) as refused:
        await check_start(config)
    line = str(refused.value)
    assert "\n" not in line
    return line


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Hold a port on which nothing listens, and return it."""
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def test_working_servers_pass(config: MakeConfig, database_url: str) -> None:
    """On both databases."""
    await check_start(config())


async def test_redis_that_does_not_answer_is_named(config: MakeConfig, closed_port: int) -> None:
    """By its address; a password in the URL is not shown."""
    line = await refusal(config(redis_url=f"redis://:hunter2@127.0.0.1:{closed_port}/0"))
    assert line.startswith("TRYON_REDIS_URL: Redis cannot be used: ")
    assert f"127.0.0.1:{closed_port}" in line and "hunter2" not in line
    assert "TRYON_REDIS_URL" in await refusal(config(redis_url="unix:///nowhere.sock"))
    assert "TRYON_REDIS_URL" in await refusal(config(redis_url="redis://no-such-host.invalid"))


async def test_redis_password_is_checked(config: MakeConfig, start_valkey: StartValkey) -> None:
    """A missing one and a wrong one; the right one passes."""
    valkey = start_valkey(tcp=True)
    async with Redis.from_url(valkey.url) as client:
        await client.config_set("requirepass", "right")
    address = valkey.tcp_url.removeprefix("redis://")
    assert "Authentication required" in await refusal(config(redis_url=f"redis://{address}"))
    assert "invalid username-password pair" in await refusal(config(redis_url=f"redis://:wrong@{address}"))
    await check_start(config(redis_url=f"redis://:right@{address}"))


async def test_redis_without_tls_is_reported(config: MakeConfig, start_valkey: StartValkey) -> None:
    """It does not answer: the line names the scheme that asks for TLS."""
    valkey = start_valkey(tcp=True)
    assert "rediss://" in await refusal(config(redis_url=valkey.tcp_url.replace("redis://", "rediss://")))


async def test_redis_that_refuses_for_good_is_named(config: MakeConfig, start_valkey: StartValkey) -> None:
    """A database that is not there, a missing right, and options that do not exist."""
    valkey = start_valkey(tcp=True)
    host = valkey.tcp_url.partition("/0")[0]
    assert "DB index is out of range" in await refusal(config(redis_url=f"{host}/99"))
    assert "socket_timeout" in await refusal(config(redis_url=f"{host}/0?socket_timeout=long"))
    assert "an option that does not exist, 'no_such_option'" in await refusal(
        config(redis_url=f"{host}/0?no_such_option=1")
    )
    await valkey.command("ACL", "SETUSER", "default", "-ping")
    assert "no permissions" in await refusal(config(redis_url=valkey.tcp_url))


async def test_redis_that_refuses_for_now_passes(config: MakeConfig, start_valkey: StartValkey) -> None:
    """A replica without its primary answers once the fail-over is done."""
    valkey = start_valkey()
    await valkey.command("CONFIG", "SET", "replica-serve-stale-data", "no")
    await valkey.command("REPLICAOF", "127.0.0.1", "1")
    async with valkey.client() as client:
        with pytest.raises(RedisError):
            await client.ping()
    await check_start(config(redis_url=valkey.url))


async def test_redis_must_be_known(tmp_path: Path) -> None:
    """Without a setting, and without a stack on the folder, there is none."""
    assert (await refusal(Config(data_dir=tmp_path))).startswith("TRYON_REDIS_URL is not set")


async def test_database_must_be_migrated(
    config: MakeConfig, empty_postgres_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    """No file, no tables, an older release's tables; those of a newer one pass."""
    missing = tmp_path / "missing.sqlite3"
    for url in (f"sqlite+aiosqlite:///{missing}", empty_postgres_url):
        assert "run `tryon migrate`" in await refusal(config(database_url=url))
    assert not missing.exists()
    with contextlib.closing(sqlite3.connect(sqlite_url.partition(":///")[2])) as connection:
        for revision, passes in (("0001", False), ("9999", True)):
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
            connection.commit()
            if passes:
                await check_start(config(database_url=sqlite_url))
            else:
                assert "0001" in await refusal(config(database_url=sqlite_url))


async def test_postgresql_that_refuses_is_named(config: MakeConfig, postgres: PostgresServer, closed_port: int) -> None:
    """An address, a user, a database, a file and a server without TLS."""
    right = postgres.url("postgres", "postgresql")
    cases = {
        f"postgresql://someone:hunter2@127.0.0.1:{closed_port}/x": str(closed_port),
        postgres.url("no_such_database", "postgresql"): "no_such_database",
        right.replace("postgres@", "stranger@"): "stranger",
        f"{right}?sslmode=require": "SSL",
        f"{right}?sslmode=verify-full&sslrootcert=/no/such/file": "No such file",
    }
    for url, word in cases.items():
        line = await refusal(config(database_url=url))
        assert line.startswith("TRYON_DATABASE_URL: the database cannot be used: "), line
        assert word.lower() in line.lower(), line
        assert "hunter2" not in line


async def test_file_that_is_no_database_is_named(config: MakeConfig, tmp_path: Path) -> None:
    """SQLite says what it found."""
    (tmp_path / "file").write_text("no database, but long enough to have a head" * 10)
    assert "not a database" in await refusal(config(database_url=f"sqlite:///{tmp_path / 'file'}"))


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """It stands below a file."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"^TRYON_DATA_DIR: cannot use {tmp_path}/file/data: Not a directory$"):
        check_folder(Config(data_dir=tmp_path / "file" / "data"))


# -- the commands ----------------------------------------------------------------------


async def test_serve_without_redis_ends_with_one_line(stack: StartStack, sqlite_url: str) -> None:
    """No trace, nothing around it, and no port that was opened."""
    refused = await stack("serve", ready=False, TRYON_DATABASE_URL=sqlite_url)
    assert await refused.wait() == 2
    assert refused.lines == []
    assert refused.errors == [
        "tryon: TRYON_REDIS_URL is not set and no `tryon up` runs on this data folder; set it, or start `tryon up`"
    ]


@pytest.mark.parametrize("command", ["serve", "worker", "up"])
async def test_start_without_servers_ends_with_one_line(stack: StartStack, command: str, closed_port: int) -> None:
    """The same from every command, with exit status 2."""
    refused = await stack(command, ready=False, TRYON_REDIS_URL=f"redis://127.0.0.1:{closed_port}")
    assert await refused.wait() == 2
    assert refused.lines == []
    [line] = refused.errors
    assert line.startswith("tryon: TRYON_REDIS_URL" if command == "up" else "tryon: TRYON_DATABASE_URL")


async def test_process_starts_without_servers_when_told_to(
    stack: StartStack, sqlite_url: str, closed_port: int
) -> None:
    """`TRYON_START_CHECK=no`: it waits for Redis, as in an outage."""
    serving = await stack(
        "serve",
        ready=False,
        TRYON_DATABASE_URL=sqlite_url,
        TRYON_REDIS_URL=f"redis://127.0.0.1:{closed_port}",
        TRYON_START_CHECK="no",
    )
    await serving.line("Listening on")
