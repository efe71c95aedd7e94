"""``python -m testkit.newcomer [--cold]``: a fresh clone, and the README's quick start.

Clones the last commit into a temporary folder and types what the README says, nothing
else, until the first result lies there. Prints how long each part took. It must be
there within :data:`MAX_SECONDS` with a warm package cache; ``--cold``: without one.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from PIL import Image

from testkit.documents import ADDRESS, VERBS, marked
from testkit.processes import ROOT, environment, free_port

MAX_SECONDS: Final = 60.0
"""Longest time from the clone to the first result, with a warm package cache."""
PAGE: Final = "README.md"
PORT: Final = 8000
READY: Final = "TryOn Push is ready at "
GIVEN_UP_SECONDS: Final = 540.0
"""Time after which a run is given up."""


def commands() -> tuple[str, str]:
    """Return what the README says: the command that starts, and the first try-on."""
    blocks = {name: block for kind, name, block in marked(PAGE) if kind == "run"}
    return blocks["start"].strip(), blocks["first"].strip()


def result_of(block: str) -> str:
    """Return the file that a block's last command writes."""
    (name,) = re.findall(r" -o (\S+)", block)
    return str(name)


@dataclass
class Newcomer:
    """A person with a clone and two shells."""

    folder: Path
    port: int
    environ: dict[str, str]
    _server: asyncio.subprocess.Process | None = None
    _reading: asyncio.Task[bytes] | None = None

    async def typed(self, block: str) -> tuple[int, str]:
        """Type a block into a shell; return its status and what it printed."""
        shell = await self._shell(block)
        assert shell.stdout is not None
        out = (await shell.stdout.read()).decode()
        return await shell.wait(), out

    async def _shell(self, block: str) -> asyncio.subprocess.Process:
        if self.port != PORT:
            block = block.replace(ADDRESS, f"http://127.0.0.1:{self.port}")
            block = VERBS.sub(rf".venv/bin/tryon \1 --server http://127.0.0.1:{self.port}", block)
        return await asyncio.create_subprocess_exec(
            *("bash", "-euc", block),
            cwd=self.folder,
            env=self.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def clones(self, source: str) -> None:
        """Clone the last commit of ``source``."""
        clone = await asyncio.create_subprocess_exec("git", "clone", "--quiet", source, str(self.folder))
        if await clone.wait():
            raise SystemExit("git clone failed")

    async def starts(self, block: str) -> None:
        """Type the command that goes on, and wait until it says that it is ready."""
        self._server = await self._shell(f"exec {block}")
        assert self._server.stdout is not None
        seen = []
        async for line in self._server.stdout:
            seen.append(line.decode().rstrip())
            if READY in seen[-1]:
                self._reading = asyncio.create_task(self._server.stdout.read())
                return
        raise SystemExit("\n".join([f"{block} ended before it was ready:", *seen]))

    async def tries_on(self, block: str) -> None:
        """Type the first try-on; type the retry that a failed one offers."""
        status, out = await self.typed(block)
        while status == 1 and (offered := re.search(r"^  (\S*tryon retry .*)$", out, re.MULTILINE)):
            status, out = await self.typed(f"{offered[1]} -o {result_of(block)}")
        if status:
            raise SystemExit(f"exit status {status} of:\n{block}\n{out}")
        with Image.open(self.folder / result_of(block)) as picture:
            picture.load()

    async def leaves(self) -> None:
        """Press Ctrl-C."""
        if self._server is not None and self._server.returncode is None:
            self._server.send_signal(signal.SIGINT)
            await self._server.wait()
        if self._reading is not None:
            await self._reading


def is_free(port: int) -> bool:
    """Return whether this machine's port can be listened on."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def run(source: Path, *, cold: bool) -> float:
    """Return the seconds from the clone to the first result; print each part's."""
    start, first = commands()
    with tempfile.TemporaryDirectory(prefix="tryon-newcomer-") as name:
        folder = Path(name)
        settings = {"XDG_CONFIG_HOME": str(folder / "config")}
        if cold:
            settings["PIP_CACHE_DIR"] = str(folder / "no-cache")
        port = PORT
        if not is_free(PORT):
            port = free_port()
            settings["TRYON_PORT"] = str(port)
            print(f"Port {PORT} is taken; port {port} instead")
        environ = environment(settings)
        for inherited in ("PYTHONPATH", "VIRTUAL_ENV"):
            environ.pop(inherited, None)
        person = Newcomer(folder / "tryon-push", port, environ)
        begun = before = time.monotonic()
        try:
            async with asyncio.timeout(GIVEN_UP_SECONDS):
                for step, block in ((person.clones, str(source)), (person.starts, start), (person.tries_on, first)):
                    await step(block)
                    after = time.monotonic()
                    print(f"{after - before:6.1f} s  {step.__name__}: {block.splitlines()[-1]}", flush=True)
                    before = after
            return before - begun
        finally:
            await person.leaves()


@click.command()
@click.option("--cold", is_flag=True, help="Without a package cache; the time is reported, not judged.")
def main(cold: bool) -> None:
    """Run the README's quick start in a fresh clone, and measure it."""
    for program in ("git", "bash"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing")
    seconds = asyncio.run(run(ROOT, cold=cold))
    print(f"{seconds:6.1f} s  from the clone to the first result, with {'no' if cold else 'a warm'} package cache")
    if not cold and seconds > MAX_SECONDS:
        sys.exit(f"more than {MAX_SECONDS:g} s")


if __name__ == "__main__":
    os.umask(0o022)
    main()
