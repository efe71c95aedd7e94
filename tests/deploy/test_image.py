"""The container image: its lines are run, and the product runs on what they leave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from testkit.disks import mounted_disk
from testkit.fixtures import StartValkey
from testkit.following import end, follow
from testkit.image import Image, ImageError, instructions
from testkit.photos import small
from testkit.plugin import missing
from testkit.processes import ROOT, free_port
from tests.deploy.tools import tools_python

DOCKERFILE: Final = ROOT / "deploy/Dockerfile"


def test_dockerfile_passes_hadolint() -> None:
    """The common mistakes, by the tool that knows them."""
    hadolint = tools_python().with_name("hadolint")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_context_holds_no_secret_and_no_data() -> None:
    """What is not named does not reach the engine: `.env`, `data/`, `.git/`."""
    first, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    assert first == "*"
    named = {line[1:] for line in kept if line.startswith("!")}
    copied = {
        word.rstrip("/")
        for kind, rest in instructions(DOCKERFILE.read_text())
        if kind == "COPY" and not rest.startswith("--from")
        for word in rest.split()[:-1]
    }
    assert named == copied


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Build the image on a disk of its own."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(mounted_disk(tmp_path_factory.mktemp("image"), "2g"))
            yield Image(DOCKERFILE, folder).build()
        except PermissionError as error:
            missing(str(error))


@pytest.fixture
async def containers(image: Image, tmp_path: Path, postgres_url: str, start_valkey: StartValkey) -> dict[str, str]:
    """Give the settings of a container, and the folder that it may write."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    os.chown(volume, *map(int, image.stage.user.split(":")))
    return {
        "TRYON_DATABASE_URL": postgres_url.replace("+asyncpg", ""),
        "TRYON_REDIS_URL": start_valkey(tcp=True).tcp_url,
        "TRYON_SECRET_KEY": "k" * 40,
        "TRYON_PORT": str(free_port()),
        "TRYON_WORKER_METRICS_PORT": str(free_port()),
        "TRYON_MOCK_SECONDS": "0.2",
        "TRYON_MOCK_FAILURE_RATE": "0",
    }


async def health(client: httpx.AsyncClient) -> str | None:
    """Return the status of the whole picture; None before the server answers."""
    with contextlib.suppress(httpx.TransportError):
        return str((await client.get("/api/health")).json()["status"])
    return None


async def output(image: Image, *command: str, settings: dict[str, str], volume: Path) -> tuple[int, str]:
    process = await image.start(*command, settings=settings, volume=volume)
    said, complained = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (said + (complained or b"")).decode()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("image")
async def test_image_runs_the_product(image: Image, containers: dict[str, str], tmp_path: Path) -> None:
    """Migrate, serve, work, health checks, a session to its end, stops on SIGTERM."""
    volume, log = tmp_path / "volume", tmp_path / "log"
    try:
        status, said = await output(image, "tryon", "migrate", settings=containers, volume=volume)
        assert status == 0, said
        status, said = await output(image, "tryon", "probe", settings=containers, volume=volume)
        assert (status, "port" in said) == (3, True)

        worker = await image.start("arq", "worker.Settings", settings=containers, volume=volume, log=log)
        web = await image.start(settings=containers, volume=volume, log=log)
        base = f"http://127.0.0.1:{containers['TRYON_PORT']}"
        async with httpx.AsyncClient(base_url=base) as client:
            async with asyncio.timeout(60):
                while await health(client) != "ok":
                    await asyncio.sleep(0.05)
            for check in (image.stage.health, ["tryon", "probe", "--ready"], ["tryon", "probe", "--worker"]):
                status, said = await output(image, *check, settings=containers, volume=volume)
                assert status == 0, said
            made = (await client.post("/api/tryon/sessions", files={"person": small()})).json()
            steps = [step async for step in follow("ws", base, made["session_id"], made["client_token"])]
            assert steps[-1] == end("completed")
        for process in (web, worker):
            process.send_signal(signal.SIGTERM)
        stopped = (0, 128 + signal.SIGTERM)  # uvicorn ends by the signal that stopped it
        assert await web.wait() in stopped
        assert await worker.wait() in stopped
    finally:
        print(log.read_text()[-4000:] if log.exists() else "")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("image")
async def test_image_is_read_only_and_unprivileged(image: Image, tmp_path: Path) -> None:
    """No compiler, no pip, no capability, no place to write but /tmp and /data."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    os.chown(volume, 10001, 10001)
    script = (
        "id -u; grep CapBnd /proc/self/status; touch /data/x /tmp/x && echo written; "
        "touch /opt/tryon/x /etc/x 2>&1 | grep -c 'Read-only file system\\|Permission denied'; "
        "ls /opt/tryon/bin"
    )
    status, said = await output(image, "sh", "-c", script, settings={}, volume=volume)
    assert status == 0, said
    uid, capabilities, written, refused, *programs = said.split("\n")
    assert uid == "10001"
    assert re.fullmatch(r"CapBnd:\s+0+", capabilities)
    assert (written, refused) == ("written", "2")
    assert {"tryon", "arq", "python"} <= set(programs)
    assert not {"pip", "pip3", "hatchling"} & set(programs)
    installed = image.stage.layers[0] / "opt/tryon"
    assert not [
        path for path in installed.rglob("*") if path.is_file() and path.stat().st_mode & (stat.S_ISUID | stat.S_IWOTH)
    ]


def test_unknown_instruction_is_refused(tmp_path: Path) -> None:
    """The interpreter follows all of the file or none of it."""
    (tmp_path / "Dockerfile").write_text("ADD https://example.com/x /x\n")
    if os.geteuid() == 0:
        with pytest.raises(ImageError, match="ADD is not understood"):
            Image(tmp_path / "Dockerfile", tmp_path).build()
