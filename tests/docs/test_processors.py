"""Every example of docs/processors.md runs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
from PIL import Image

from testkit.documents import marked, text_of
from testkit.fixtures import StartStack
from testkit.jobs import job_of
from testkit.photos import small
from testkit.processes import ROOT
from tryon.client.api import AsyncTryOn
from tryon.processor import Output
from worker.processors.httpjob import HttpJob

PAGE: Final = "docs/processors.md"
PROGRAM: Final = f"{sys.executable} -m server"
FILES: Final = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text_of(PAGE), re.DOTALL))

DIFFUSER: Final = '''
import io
import time

from PIL import Image


class Model:
    """As slow as a model on a GPU that is in a hurry."""

    def begin(self, pictures, seed):
        assert pictures
        return [seed % 256]

    def step(self, state):
        time.sleep(0.01)
        state[0] = (state[0] + 1) % 256

    def picture(self, state):
        file = io.BytesIO()
        Image.new("RGB", (64, 64), (state[0], 0, 0)).save(file, "PNG")
        return file.getvalue()

    def free(self):
        pass


def load(weights):
    return Model()
'''
"""Stands in for a library that needs a GPU."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the files of the page."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "diffuser.py").write_text(DIFFUSER)
    return tmp_path


def run(folder: Path, command: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", command.replace(".venv/bin/python", sys.executable).replace(".venv/bin/tryon", PROGRAM)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_page_has_every_example() -> None:
    """A model of one's own, one on a GPU, and one behind HTTP."""
    assert list(FILES) == ["grey.py", "sepia.py", "gpu.py", "model.toml"]
    assert len(FILES["grey.py"].splitlines()) == 20
    assert len(FILES["model.toml"].splitlines()) == 5


BLOCKS: Final = {name: block for kind, name, block in marked(PAGE) if kind == "run"}


@pytest.mark.slow
async def test_twenty_lines_are_checked_and_used(folder: Path, stack: StartStack) -> None:
    """The commands of the page, to the grey picture of the running product."""
    run(folder, BLOCKS["check"])
    with Image.open(folder / "grey.jpg") as picture:
        assert picture.format == "JPEG"
    setting, command = BLOCKS["start"].split()
    assert command == "./run"
    name, _, processor = setting.partition("=")
    assert name == "TRYON_PROCESSOR"
    product = await stack(folder=folder, TRYON_PROCESSOR=processor)
    async with AsyncTryOn(product.url) as tryon:
        result = await tryon.run(folder / "photos" / "photo.webp").result()
    with Image.open(io.BytesIO(result)) as picture:
        red, _, blue = picture.convert("RGB").split()
        assert red.tobytes() == blue.tobytes()


def test_commands_of_page_run(folder: Path) -> None:
    """The longer class passes the checks that the page tells to run."""
    assert list(BLOCKS) == ["check", "start", "conformance"]
    assert "checks passed" in run(folder, BLOCKS["conformance"])


def test_gpu_model_passes_the_checks(folder: Path) -> None:
    """With a stand-in for the library that paints."""
    assert "checks passed" in run(folder, ".venv/bin/python -m tryon.processor.conformance gpu:Gpu")


async def test_five_lines_reach_a_model() -> None:
    """One POST with data URLs, and a picture in the answer."""
    asked: list[dict[str, str]] = []
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("POST /try-on ")
        [length] = re.findall(r"(?i)content-length: (\d+)", head)
        asked.append(json.loads(await reader.readexactly(int(length))))
        body = json.dumps({"image": url}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    processor = HttpJob(**tomllib.loads(FILES["model.toml"].replace("5000", str(port))))
    try:
        result = await asyncio.wait_for(
            processor.run(job_of(small(), garment=small(), garment_type="image/jpeg"), Silent()), 20
        )
    finally:
        await processor.close()
        server.close()
    [output] = [result] if isinstance(result, Output) else result
    assert (output.type, output.data) == ("image/png", file.getvalue())
    assert asked[0]["person"].startswith("data:image/")
    assert asked[0]["garment"].startswith("data:image/")


class Silent:
    """A report that nobody reads."""

    async def __call__(self, *what: object, **more: object) -> None:
        pass

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None:
        pass

    async def log(self, text: str) -> None:
        pass

    async def usage(self, **amounts: float | None) -> None:
        pass

    async def checkpoint(self, checkpoint: object) -> None:
        pass
