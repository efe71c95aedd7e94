"""The Gradio app of the tests, ``tests/processors/gradio/app.py``, as a process."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

import httpx

from testkit.environments import python_of
from testkit.processes import ROOT, free_port, spawn

START_SECONDS: Final = 90.0
"""Longest start; importing Gradio takes five seconds on an idle machine."""
POLL_SECONDS: Final = 0.01


class GradioServer:
    """A Gradio app on a port of its own; ``folder`` holds what its calls wait for."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="gradio-", dir="/tmp"))
        self.log = self.folder / "log"
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<GradioServer {self.url}>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> GradioServer:
        """Start it (again, after :meth:`kill`) and return when it serves.

        Raises :class:`~testkit.environments.EnvironmentMissing`.
        """
        python = await asyncio.to_thread(python_of, "gradio")
        self.log.write_bytes(b"")
        self._process = await spawn(
            *(str(python), "-W", "ignore", str(ROOT / "tests/processors/gradio/app.py")),
            *(str(self.port), str(self.folder)),
            settings={
                "GRADIO_ANALYTICS_ENABLED": "False",
                "GRADIO_TEMP_DIR": str(self.folder / "files"),
                "HF_HUB_OFFLINE": "1",
                "HOME": str(self.folder),
                "PYTHONPATH": "",
            },
            folder=self.folder,
            log=self.log,
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                while self._process.returncode is None:
                    if b"READY" in self.log.read_bytes():
                        return self
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            await self.kill()
        raise RuntimeError(f"The Gradio app did not start: {self.log.read_text()[-2000:]}")

    async def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def close(self) -> None:
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, gate: str) -> None:
        """Let the calls that wait for ``gate`` go on."""
        (self.folder / gate).touch()

    async def happened(self, name: str, seconds: float = 60.0) -> None:
        """Return when the app has written ``name``: ``GATE.runs``, ``GATE.stopped``."""
        async with asyncio.timeout(seconds):
            while not (self.folder / name).exists():  # a file announces nothing
                await asyncio.sleep(POLL_SECONDS)

    async def waiting(self, calls: int, seconds: float = 60.0) -> None:
        """Return when this many calls wait in the app's queue."""
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False) as client:
            while (await client.get(f"{self.url}/gradio_api/queue/status")).json()["queue_size"] != calls:
                await asyncio.sleep(POLL_SECONDS)

    @property
    def runs(self) -> list[str]:
        """What its calls have written: began, ended."""
        path = self.folder / "calls"
        return path.read_text().split() if path.exists() else []

    async def idle(self, seconds: float = 60.0) -> None:
        """Return when no call runs: each has ended, or was stopped."""
        async with asyncio.timeout(seconds):
            while self.runs.count("began") != self.runs.count("ended"):
                await asyncio.sleep(POLL_SECONDS)
