"""A process of the product that may be killed, frozen, stopped and started again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from pathlib import Path

from testkit.processes import spawn


class Program:
    """One process of the product."""

    def __init__(
        self, name: str, command: tuple[str, ...], environ: Mapping[str, str], log: Path, port: int = 0
    ) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._command = command
        self._environ = dict(environ)
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<Program {self.name} pid={self.pid if self.running else None}>"

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it (again). Returns at once."""
        assert not self.running, "it runs already"
        self._process = await spawn(*self._command, settings=self._environ, log=self.log)

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP: it holds all it has and does nothing."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        await self.process.wait()

    async def terminate(self, seconds: float = 20.0) -> int:
        """SIGTERM, and wait until it is gone; its exit status. Raises TimeoutError."""
        self.send(signal.SIGTERM)
        return await self.ended(seconds)

    async def ended(self, seconds: float = 20.0) -> int:
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def close(self) -> None:
        if self.running:
            self.thaw()
            try:
                await self.terminate(10)
            except TimeoutError:
                await self.kill()
