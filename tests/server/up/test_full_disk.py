"""`tryon up` on a disk that is full, with its whole data folder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from testkit.fixtures import StartStack, disk_of

SESSIONS = "/api/tryon/sessions"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk with room for the data of a stack."""
    with disk_of(tmp_path / "disk", "48m") as folder:
        yield folder


def fill(disk: Path) -> Path:
    """Fill the disk to the last byte, with whatever was freed since the last call."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (2**20, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


async def test_first_start_on_full_disk_is_one_line(stack: StartStack, disk: Path) -> None:
    """Name the folder that has no room, and start nothing."""
    fill(disk)
    refused = await stack(ready=False, TRYON_DATA_DIR=str(disk / "data"))
    assert await refused.wait() == 2
    assert refused.errors == [f"tryon: TRYON_DATA_DIR: cannot use {disk / 'data'}: No space left on device"]


@pytest.mark.sqlite
async def test_first_migration_on_full_disk_has_no_traceback(stack: StartStack, disk: Path, redis_url: str) -> None:
    """Report a database that has no room in one line."""
    fill(disk)
    refused = await stack("migrate", ready=False, TRYON_DATA_DIR=str(disk / "data"), TRYON_REDIS_URL=redis_url)
    assert await refused.wait() == 2
    (line,) = refused.errors
    assert line.startswith("tryon: TRYON_DATABASE_URL: the database cannot be used: "), line


async def test_serving_on_full_disk_without_secret_has_no_traceback(
    stack: StartStack, disk: Path, redis_url: str
) -> None:
    """Report a secret that cannot be written in one line."""
    fill(disk)
    refused = await stack("serve", ready=False, TRYON_DATA_DIR=str(disk / "data"), TRYON_REDIS_URL=redis_url)
    assert await refused.wait() != 0
    assert not any("Traceback" in line for line in refused.errors), refused.output


@pytest.mark.slow
@pytest.mark.sqlite  # two starts, one database in the data folder
async def test_stack_starts_on_full_disk_and_recovers(stack: StartStack, disk: Path, photos: Path) -> None:
    """Start on the data of an earlier run: 507, DELETE works, 201 with room again."""
    data = str(disk / "data")
    photo = {"image": (photos / "photo.jpg").read_bytes()}
    first = await stack(TRYON_DATA_DIR=data)
    async with httpx.AsyncClient(base_url=first.url) as client:
        made = (await client.post(SESSIONS, files=photo)).json()
    assert await first.stop() == 0
    filler = fill(disk)
    up = await stack(TRYON_DATA_DIR=data)
    token = {"X-Client-Token": made["client_token"]}
    async with httpx.AsyncClient(base_url=up.url) as client:
        fill(disk)
        refused = await client.post(SESSIONS, files=photo)
        assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
        assert (await client.get(made["links"]["self"], headers=token)).status_code == 200
        fill(disk)
        erased = await client.delete(made["links"]["self"], headers=token)
        assert erased.status_code == 200, erased.text
        assert len(erased.json()["files"]) >= 1
        fill(disk)
        assert (await client.post(SESSIONS, files=photo)).status_code == 507
        filler.unlink()
        async with asyncio.timeout(30):
            while (await client.post(SESSIONS, files=photo)).status_code != 201:
                await asyncio.sleep(0.05)  # as a client does
    assert not any("starting it again" in line or "Traceback" in line for line in up.errors), up.output
