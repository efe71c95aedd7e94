"""An image process: its rights, its code, its memory and its descriptors."""

from __future__ import annotations

import asyncio
import io
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

from server.adapters.imaging import cleaner as imaging_child
from server.adapters.imaging.pool import ACCEPTED, NICENESS
from server.adapters.imaging.sample_photos import metadata
from server.domain.images import ImageFormat, Limits
from tests.server.adapters.imaging.pools import (
    LINUX,
    ROOT,
    Start,
    imaging_program,
    outcome,
    photo,
)


@LINUX
async def test_process_is_confined(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has few rights: no secret, few files, little memory, no log."""
    monkeypatch.setenv("TRYON_SECRET_KEY", "a secret")
    imaging = start(Limits(), program=imaging_program())
    await imaging.clean(photo())
    child = psutil.Process(imaging.pids[0])
    assert child.rlimit(resource.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(resource.RLIMIT_NOFILE)[1] <= 16
    assert child.rlimit(resource.RLIMIT_AS)[1] <= 1_700_000_000
    assert child.rlimit(resource.RLIMIT_FSIZE)[1] <= 210_000_000
    assert child.nice() == min(19, psutil.Process().nice() + NICENESS)
    assert "NoNewPrivs:\t1" in Path(f"/proc/{child.pid}/status").read_text()
    assert "a secret" not in child.environ().values()
    assert child.num_fds() <= 4
    assert os.readlink(f"/proc/{child.pid}/fd/2") == "/dev/null"


def test_each_side_loads_only_its_own_code() -> None:
    """The server loads no Pillow, and a process no server."""
    assert loaded("server.web.app") & {"PIL", "PIL.Image"} <= {"PIL"}
    child = loaded("server.adapters.imaging.cleaner")
    assert "PIL.Image" in child
    assert not child & {
        "asyncio",
        "sqlalchemy",
        "redis",
        "starlette",
        "msgspec",
        "server.config.settings",
        "server.telemetry.metrics",
    }


def loaded(module: str) -> set[str]:
    script = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_accepted_formats_match_decoders() -> None:
    """The formats that the server accepts are those the decoders take."""
    assert imaging_child.ACCEPTED == ACCEPTED


async def test_photo_in_file_is_handed_over(start: Start) -> None:
    """A photo in a file goes to the process by its descriptor."""
    imaging = start(Limits(), program=imaging_program())
    with tempfile.TemporaryFile() as file:
        Image.effect_noise((1500, 1500), 100).save(file, "PNG")
        file.seek(0)
        image = await imaging.clean(file)
    assert (image.format, image.width) == (ImageFormat.PNG, 1500)
    assert len(image.data) > 2**20
    assert Image.open(io.BytesIO(image.data)).size == (1500, 1500)


@LINUX
async def test_memory_is_returned_when_idle(start: Start) -> None:
    """A process gives a photo's memory back when no other photo follows."""
    imaging = start(Limits(), program=imaging_program())
    await imaging.clean(photo())
    child = psutil.Process(imaging.pids[0])
    before = child.memory_info().rss
    await imaging.clean(photo(3000, "JPEG", exif=metadata(6)))
    async with asyncio.timeout(10):
        while child.memory_info().rss > before + 5_000_000:
            await asyncio.sleep(0.02)  # nothing tells when a foreign process gives memory back
    assert imaging.pids == [child.pid]


@LINUX
async def test_no_descriptor_is_left_open(start: Start) -> None:
    """Cancelled, refused and cleaned photos close their descriptors."""
    imaging = start()
    await imaging.clean(photo())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        cancelled = asyncio.ensure_future(imaging.clean(photo()))
        await asyncio.sleep(0)
        cancelled.cancel()
        outcomes = [outcome(imaging.clean(source)) for source in (photo(), io.BytesIO(b"eat"), io.BytesIO(b"GIF89a"))]
        await asyncio.gather(*outcomes)
    await imaging.close()
    assert len(os.listdir("/proc/self/fd")) < before
