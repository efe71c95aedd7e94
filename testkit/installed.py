"""Servers that the machine has installed, run for the length of a block."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from testkit.plugin import missing
from testkit.processes import START_SECONDS, spawn

PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"


@contextlib.asynccontextmanager
async def running_program(program: str, *arguments: str, port: int, folder: Path) -> AsyncIterator[None]:
    """Run a server until the end of the block, which begins when it listens.

    The test is skipped with a loud reason where the program is missing.
    """
    found = shutil.which(program, path=PLACES)
    if found is None:
        missing(f"{program} (Debian: apt-get install {program})")
    settings = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    process = await spawn(found, *arguments, settings=settings, folder=folder, log=folder / "output.log")
    try:
        async with asyncio.timeout(START_SECONDS):
            await _listening(port, process)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _listening(port: int, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the server did not start")
