"""What the other tests stand on: the servers, photos and browser of the fixtures."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio
from PIL import Image, ImageOps
from playwright.async_api import Page

from testkit import photos as photo_maker
from testkit.fixtures import StartValkey
from testkit.processes import ROOT
from testkit.servers import PostgresServer

LOCKS = ("requirements.lock", "requirements-test.lock")


async def test_each_test_gets_an_empty_valkey(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set("left behind", 1)


async def test_each_test_gets_an_empty_valkey_again(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0


async def test_a_persistent_valkey_survives_its_crash(start_valkey: StartValkey) -> None:
    server = start_valkey(tcp=True, persistent=True, options=("--appendfsync", "always"))
    async with redis.asyncio.Redis.from_url(server.tcp_url) as client:
        await client.set("kept", "yes")
    server.kill()
    server.start()
    async with redis.asyncio.Redis.from_url(server.tcp_url) as client:
        assert await client.get("kept") == b"yes"


async def test_a_paused_valkey_answers_when_resumed(start_valkey: StartValkey) -> None:
    server = start_valkey()
    async with redis.asyncio.Redis.from_url(server.url, socket_timeout=0.1) as client:
        await client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            await client.ping()
        server.resume()
        assert await client.ping()


async def test_a_paused_postgres_does_nothing_until_it_is_resumed(
    postgres: PostgresServer, empty_postgres_url: str
) -> None:
    connection = await asyncpg.connect(empty_postgres_url.replace("+asyncpg", ""))
    try:
        postgres.pause()
        asked = asyncio.create_task(connection.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([asked], timeout=0.3)
        postgres.resume()
        assert await asked == 1
        assert not done, "its own process went on"
    finally:
        postgres.resume()
        await connection.close()


async def test_each_test_gets_an_empty_postgres_database(empty_postgres_url: str) -> None:
    connection = await asyncpg.connect(empty_postgres_url.replace("+asyncpg", ""))
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_stat_user_tables") == 0
    finally:
        await connection.close()


@pytest.mark.parametrize("name", sorted(photo_maker.SIZES))
def test_the_photos_are_upright_once_their_orientation_is_applied(photos: Path, name: str) -> None:
    with Image.open(photos / name) as picture:
        upright = ImageOps.exif_transpose(picture)
        assert upright.size == photo_maker.SIZES[name]
        assert dict(picture.getexif().get_ifd(0x8825)), "no GPS in it"
        if name != "garment.png":
            red, green, blue = upright.convert("RGB").resize((1, 1), box=(5, 5, 15, 15)).tobytes()
            assert red > 180
            assert max(green, blue) < 80


@pytest.mark.xdist_group("chromium")
async def test_a_real_browser_runs(page: Page) -> None:
    await page.set_content("<h1>hello</h1>")
    assert await page.inner_text("h1") == "hello"


def test_the_wheel_holds_pages_and_migrations(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"server/static/index.html", "server/alembic/env.py", "server/cli/main.py", "worker/settings.py"} <= names
    assert any(name.startswith("server/alembic/versions/") for name in names)
    assert not any(name.startswith(("alembic/", "tests/")) for name in names)


@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_are_hashed_and_name_no_registry(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.findall(r"^-", text, re.MULTILINE)
    for entry in re.findall(r"^[\w.-]+==.*(?:\n    .*)*", text, re.MULTILINE):
        assert "--hash=sha256:" in entry, entry


def test_what_is_locked_for_running_is_locked_for_testing() -> None:
    """So that an environment made by ./test serves ./run."""
    run, test = (set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.MULTILINE)) for lock in LOCKS)
    assert run <= test
