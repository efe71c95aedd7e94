"""Stories in Node: scripts that report to a test, one JSON array a line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from testkit.plugin import missing
from testkit.processes import ROOT, spawn


class Story:
    """A script that runs in Node, and its reports."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self._process, self._lines = process, process.stdout

    async def hears(self) -> Any:
        """Return the next report of the script."""
        async with asyncio.timeout(20):
            line = await self._lines.readline()
        if not line:
            assert self._process.stderr is not None
            pytest.fail((await self._process.stderr.read()).decode())
        return json.loads(line)

    async def ends(self) -> None:
        """Wait for the end of the script, which leaves nothing open and is silent."""
        async with asyncio.timeout(20):
            out, err = await self._process.communicate()
        assert (self._process.returncode, out, err) == (0, b"", b"")


@contextlib.asynccontextmanager
async def running_story(story: str, *arguments: str, folder: Path = ROOT) -> AsyncIterator[Story]:
    """Run a script in ``folder``; Node 20 has WebSockets behind a flag."""
    node = shutil.which("node")
    if node is None:
        missing("Node.js")
    options = ("--no-warnings", "--experimental-websocket", "--input-type=module", "-e", story)
    process = await spawn(node, *options, *arguments, folder=folder, piped=True)
    try:
        yield Story(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
