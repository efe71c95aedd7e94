"""A crowd of clients in a process of its own, as one has 20,000 descriptors at most.

It reads commands from stdin, one JSON line each, and answers each with one line: a
number. ``{"connect": [paths]}`` connects a client to each, and answers how many are
connected; ``{"heard": true}`` answers how many frames have come after the snapshots.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final

import uvloop

from server.system.processes import dying_with_parent, raise_file_limit
from testkit.load import Client, connect_all
from testkit.processes import ROOT, environment

LINE_BYTES: Final = 2**26
"""Longest command: the paths of 20,000 clients are 5 MB."""

EVENT: Final = b'{"type":"event"'


class Crowd:
    """The clients of one process, as the process that leads them sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def __repr__(self) -> str:
        return f"<Crowd pid={self._process.pid}>"

    async def connect(self, paths: Sequence[str]) -> int:
        """Connect one more client to each path; return how many are connected."""
        return await self._ask({"connect": list(paths)})

    async def heard(self) -> int:
        """Return the number of events that all clients have got."""
        return await self._ask({"heard": True})

    async def _ask(self, command: dict[str, object]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await self._process.stdout.readline()
        if not answer:
            raise SystemExit("a crowd of clients ended: its error stands above")
        return int(answer)


@contextlib.asynccontextmanager
async def running_crowd(port: int) -> AsyncIterator[Crowd]:
    """Run a process whose clients connect to ``port``, until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.scaling.crowd", str(port)),
        cwd=ROOT,
        env=environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=dying_with_parent(),
    )
    try:
        yield Crowd(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _follow(port: int) -> None:
    raise_file_limit()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    clients: list[Client] = []
    heard = 0

    def hear(client: Client, text: bytes) -> None:
        nonlocal heard
        heard += text.startswith(EVENT)

    while line := await reader.readline():
        command = json.loads(line)
        if "connect" in command:
            clients += (await connect_all(port, command["connect"], on_text=hear))[0]
            print(sum(client.connected for client in clients), flush=True)
        else:
            print(heard, flush=True)


if __name__ == "__main__":
    uvloop.run(_follow(int(sys.argv[1])))
