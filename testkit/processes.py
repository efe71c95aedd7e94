"""One way to start a program from the checkout.

It gets none of the shell's own TRYON_* settings, and does not outlive the process that
started it (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from server.system.processes import dying_with_parent

ROOT: Final = Path(__file__).resolve().parent.parent
"""The folder of the checkout."""

START_SECONDS: Final = 30.0
"""Longest start of a program; it takes a second or two on an idle machine."""

SERVER_PORTS: Final = range(12_000, 32_000)
"""Ports for servers that need a number before they listen; Linux chooses from 32768."""


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with no TRYON_* variable but ``settings``."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("TRYON_")}
    return clean | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(settings or {})


async def spawn(
    *command: str,
    settings: Mapping[str, str] | None = None,
    folder: Path = ROOT,
    log: Path | None = None,
    piped: bool = False,
    end_signal: int = signal.SIGKILL,
) -> asyncio.subprocess.Process:
    """Start a program in ``folder`` with these variables (see :func:`environment`).

    Its output is appended to ``log``, or read by the caller if ``piped``, or dropped.
    It gets ``end_signal`` when this process ends.
    """
    with contextlib.ExitStack() as stack:
        out = asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL
        target = out if log is None else stack.enter_context(log.open("ab"))
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=environment(settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=target,
            stderr=target,
            start_new_session=True,
            preexec_fn=dying_with_parent(end_signal),
            limit=2**20,
        )


async def run_python(*arguments: str, seconds: float, folder: Path = ROOT) -> tuple[int, str, str]:
    """Run ``python ARGUMENTS`` as :func:`run_program` does."""
    return await run_program(sys.executable, *arguments, seconds=seconds, folder=folder)


async def run_program(*command: str, seconds: float, folder: Path = ROOT) -> tuple[int, str, str]:
    """Run a program to its end; return its exit status, stdout and stderr.

    It is killed after ``seconds``; then TimeoutError is raised.
    """
    process = await spawn(*command, folder=folder, piped=True)
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def stop(process: asyncio.subprocess.Process, number: int = signal.SIGTERM) -> None:
    """Send a signal, and SIGKILL if the process has not ended 10 s later."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def listening(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until the port accepts connections.

    Raises SystemExit if the process ends first.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)
    raise SystemExit(f"process {process.pid} does not listen on port {port} (status {process.returncode})")


def free_port() -> int:
    """Return a TCP port of the loopback address that is free at this moment.

    It is below those that Linux gives to connections and to servers that name none, so
    that no other test gets it before the server listens, or while it restarts.
    """
    while True:
        port = secrets.choice(SERVER_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def reserved_port() -> socket.socket:
    """Return a socket that is bound and never listens.

    Its port stays reserved for SO_REUSEPORT servers while they restart.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved
