"""Readers of the documents: blocks that are marked to be run, and a shell to type them.

A block is marked by a comment above it, ``<!-- run -->``, ``<!-- run: upload -->`` or
``<!-- output -->``; the name says which check its output must pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from testkit.processes import ROOT
from testkit.stack import Stack

ADDRESS: Final = "http://127.0.0.1:8000"
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MARKED: Final = re.compile(r"<!-- (run|output)(?:: (\w+))? -->\n```\w+\n(.*?)```", re.DOTALL)
VERBS: Final = re.compile(r"\.venv/bin/tryon (submit|watch|list|show|cancel|retry|share|delete)\b")
"""Commands that speak to the server of the page, which the reader's stands for."""
FOLLOWING: Final = re.compile(r"^  npx wscat -c '(ws://\S+/([0-9a-f-]+)/ws\?ticket=(\S+))'$", re.MULTILINE)
"""The last line of ``tryon submit``: address, the session's id, the ticket."""
KEPT: Final = ("TOKEN", "ID")
"""Variables that one block sets and a later one uses."""
RUN_SECONDS: Final = 60


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def marked(name: str) -> Iterator[tuple[str, str, str]]:
    """(run or output, its name, the block) of every block with a mark, in order."""
    yield from MARKED.findall(text_of(name))


# -- the commands ----------------------------------------------------------------------


@dataclass
class Reader:
    """A reader who types the blocks of a page into one shell.

    `<id>` and `<ticket>` are filled in from the last answer, or the last `submit`.
    """

    stack: Stack
    folder: Path
    session: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    printed_by_submit: str = ""
    """Output of the last `tryon submit` without `--watch`, beside the id."""

    def filled_in(self, block: str) -> str:
        block = block.replace(ADDRESS, self.stack.url).replace(
            "ws://127.0.0.1:8000", self.stack.url.replace("http", "ws")
        )
        if "<id>" in block:
            ticket = self.session["links"]["ws"].partition("ticket=")[2]
            block = block.replace("<id>", self.session["session_id"]).replace("<ticket>", ticket)
        assert "8000" not in block
        block = VERBS.sub(rf".venv/bin/tryon \1 --server {self.stack.url}", block)
        block = block.replace(".venv/bin/tryon ", ".venv/bin/python -m server ")
        return block.replace(".venv/bin/python", sys.executable)

    def environment(self) -> dict[str, str]:
        own = {"TERM": "xterm", "XDG_CONFIG_HOME": str(self.folder / "config")}
        return os.environ | {"PYTHONPATH": str(ROOT)} | own | self.kept

    async def types(self, block: str) -> str:
        """Run a block; return its stdout. Raises AssertionError if a command fails."""
        keeping = "".join(f'printf %s "${{{name}-}}" >.kept-{name}\n' for name in KEPT)
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-euc", f"{self.filled_in(block)}\n{keeping}"),
            cwd=self.folder,
            env=self.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(shell.communicate(), RUN_SECONDS)
        assert shell.returncode == 0, (block, err.decode())
        self.kept = {name: (self.folder / f".kept-{name}").read_text() for name in KEPT}
        if submitted := FOLLOWING.search(err.decode()):
            self.printed_by_submit = err.decode()
            links = {"self": f"/api/tryon/sessions/{submitted[2]}", "ws": submitted[1]}
            self.session = {"session_id": submitted[2], "links": links}
        return out.decode()

    async def types_in_a_terminal(self, block: str) -> str:
        """Run a block in a terminal; return the screen without colours.

        wscat prints less to a pipe than to a terminal.
        """
        return await asyncio.wait_for(asyncio.to_thread(self._terminal, block), RUN_SECONDS)

    def _terminal(self, block: str) -> str:
        ours, theirs = pty.openpty()
        shell = subprocess.Popen(
            ["bash", "-euc", self.filled_in(block)],
            cwd=self.folder,
            env=self.environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        seen = bytearray()
        with contextlib.suppress(OSError):  # EIO: the other side has closed it
            while piece := os.read(ours, 65536):
                seen += piece
        os.close(ours)
        assert shell.wait(RUN_SECONDS) == 0, (block, seen.decode())
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", seen.decode())


def frames_in(screen: str) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in re.findall(r"< ({.*})\n", screen)]


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()
