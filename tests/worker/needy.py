"""A processor that reads, writes, connects and imports what a job's params name."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tryon.processor import Info, Job, Output, OutputRole, Report


def write(path: str) -> None:
    Path(path).write_text("changed")


def write_temporary(content: str) -> str:
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(content)
    return file.name


def connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port)).close()


ACTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "read": lambda path: Path(path).read_text(),
    "write": write,
    "temporary": write_temporary,
    "import": lambda name: importlib.import_module(name).__name__,
    "connect": connect,
}
DEFAULT: Final = [["read", __file__], ["read", "/etc/shadow"]]


def act(action: str, value: Any) -> Any:
    return ACTIONS[action](value)


class Needy:
    info = Info(name="needy", outputs=(OutputRole(types=("image/png",)),))

    def __init__(self, *, reads: str | None = None, needs_network: bool = False, first: str | None = None) -> None:
        self.reads = () if reads is None else (reads,)
        self.needs_network = needs_network
        self._first = first

    async def start(self) -> None:
        """Read a file and write beside it, as a download to a cache does."""
        if self._first is not None:
            first = Path(self._first)
            await asyncio.to_thread(first.read_text)
            (first.parent / "downloaded").write_text("weights")

    async def run(self, job: Job, report: Report) -> Output:
        """Return the outcome of each action; raise the first error without any."""
        if "actions" not in job.params:
            for action, value in DEFAULT:
                act(action, value)
        found = []
        for action, value in job.params.get("actions", ()):
            for where in ("here", "thread"):
                try:
                    found.append(act(action, value) if where == "here" else await asyncio.to_thread(act, action, value))
                except OSError as error:
                    found.append(type(error).__name__)
        return Output(json.dumps(found).encode(), "image/png")


class NeedyOfProject(Needy):
    """Declares a file of the working directory, where the data folder lies, too."""

    reads = ("pyproject.toml",)

    def __init__(self) -> None:
        super().__init__()
        self.reads = type(self).reads
