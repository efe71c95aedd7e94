"""A `tryon` command or a worker as a process, with its output line by line."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from testkit.default_database import environ_for
from testkit.processes import START_SECONDS, spawn


class Stack:
    """A `tryon up` (or another `tryon` command) as a process of its own.

    Its output is read line by line.
    """

    READY: Final = re.compile(r"TryOn Push is ready at (\S+)")

    def __init__(self, process: asyncio.subprocess.Process, data_dir: Path, folder: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.folder = folder  #: its working directory
        self.url = ""
        self.database_url = ""
        self.lines: list[str] = []  #: stdout
        self.errors: list[str] = []  #: stderr
        self._changed = asyncio.Event()
        assert process.stdout is not None and process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.lines)),
            asyncio.create_task(self._read(process.stderr, self.errors)),
        ]

    def __repr__(self) -> str:
        return f"<Stack {self.url} pid={self.process.pid}>"

    @classmethod
    async def open(cls, folder: Path, *command: str, env: Mapping[str, str] | None = None) -> Stack:
        """Start ``python -m server <command>`` with no TRYON_* setting but ``env``."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"TRYON_DATA_DIR": str(folder / "data"), **await environ_for(folder), **(env or {})}
        process = await spawn(
            *(sys.executable, "-m", "server", *command),
            settings=settings,
            folder=folder,
            piped=True,
            end_signal=signal.SIGTERM,
        )
        stack = cls(process, Path(settings["TRYON_DATA_DIR"]), folder)
        stack.database_url = settings.get("TRYON_DATABASE_URL") or f"sqlite:///{stack.data_dir / 'tryon.sqlite3'}"
        return stack

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            lines.append(line.decode(errors="replace").rstrip("\n"))
            self._changed.set()
        self._changed.set()

    async def line(self, pattern: str | re.Pattern[str], *, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait for a line of either stream, past ones included, that matches.

        AssertionError with the output if the process ends without one.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._changed.clear()
                    for line in (*self.lines, *self.errors):
                        if match := re.search(pattern, line):
                            return match
                    if all(reader.done() for reader in self._readers):
                        break
                    await self._changed.wait()
        raise AssertionError(f"no line matches {pattern!r} in:\n{self.output}")

    async def ready(self) -> Stack:
        self.url = (await self.line(self.READY))[1]
        return self

    @property
    def output(self) -> str:
        return "\n".join((*self.lines, *self.errors))

    async def wait(self, seconds: float = START_SECONDS) -> int:
        """Return its exit status, when it has ended and all its output is read."""
        async with asyncio.timeout(seconds):
            await asyncio.gather(*self._readers)
            return await self.process.wait()

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 60) -> int:
        """Send a signal and wait for the end; return the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.wait(seconds)

    async def close(self) -> None:
        try:
            await self.stop(seconds=15)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            for reader in self._readers:
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
            await self.process.wait()
