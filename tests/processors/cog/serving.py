"""A true Cog server (``python -m cog.server.http``) with the model of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx

from testkit.environments import EnvironmentMissing, python_of
from testkit.plugin import missing
from testkit.processes import free_port, listening, spawn, stop

MODEL: Final = Path(__file__).parent / "model.py"

_PHOTO: Final = {"type": "string", "format": "uri"}
_INPUTS: Final = {
    "person": _PHOTO,
    "garment": _PHOTO | {"nullable": True},
    "seconds": {"type": "number", "default": 0.0},
    "fails": {"type": "string", "default": ""},
    "seed": {"type": "integer", "default": 0},
}


def schema(*, streams: bool) -> dict[str, object]:
    """Return the OpenAPI document of the model, as ``cog build`` writes it."""
    operation = {"x-cog-streaming": True} if streams else {}
    inputs = {"title": "Input", "type": "object", "properties": _INPUTS, "required": ["person"]}
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {"/predictions": {"post": operation}},
        "components": {"schemas": {"Input": inputs}},
    }


class CogProcess:
    """A Cog server that runs."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, folder: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder

    def __repr__(self) -> str:
        return f"<CogProcess {self.url}>"

    @property
    def runs(self) -> list[str]:
        """What the runs of the model have written: began, ended, cancelled."""
        path = self.folder / "runs.txt"
        return path.read_text().split() if path.exists() else []

    async def health(self) -> str:
        """Return the state that the server names."""
        async with httpx.AsyncClient() as client:
            status: str = (await client.get(f"{self.url}/health-check")).json()["status"]
            return status

    async def reaches(self, *states: str) -> None:
        """Wait until the server is in one of these states."""
        async with asyncio.timeout(30):
            while await self.health() not in states:
                await asyncio.sleep(0.02)

    async def release(self) -> None:
        """Let a run end now, once it is under way."""
        await self.reaches("BUSY")
        release = self.folder / "release"
        release.touch()
        await self.reaches("READY")
        release.unlink()

    async def wrote(self, word: str, times: int = 1) -> None:
        """Wait until the runs have written a word this many times."""
        async with asyncio.timeout(30):
            while self.runs.count(word) < times:
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running_cog(
    folder: Path, *, streams: bool = True, with_schema: bool = True, ready: bool = True, port: int = 0, **environ: str
) -> AsyncIterator[CogProcess]:
    """Run a Cog server until the end of the block.

    ``streams``: whether its model does. ``environ``: its SETUP_SECONDS, SETUP_FAILS.
    The test is skipped with a loud reason where Cog cannot be installed.
    """
    try:
        python = await asyncio.to_thread(python_of, "cog")
    except EnvironmentMissing as error:
        missing(f"Cog ({error})")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(MODEL, folder / "model.py")
    if with_schema:
        (folder / ".cog").mkdir(exist_ok=True)
        (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(schema(streams=streams)))
    port = port or free_port()
    settings = {
        "COG_PREDICT_TYPE_STUB": f"model.py:{'Streaming' if streams else 'Waiting'}",
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": str(port),
        "PYTHONPATH": "",
    }
    command = (str(python), "-m", "cog.server.http", "--host", "127.0.0.1")
    process = await spawn(*command, settings=settings | environ, folder=folder, log=folder / "cog.log")
    server = CogProcess(process, port, folder)
    try:
        await listening(port, process)
        if ready:
            await server.reaches("READY")
        yield server
    finally:
        await stop(process)
        print(f"--- output of {server!r}\n{(folder / 'cog.log').read_text()}")
