"""One way to start a program from the checkout.

It gets none of the shell's own TRYON_* settings, and does not outlive the process that
started it (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
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


@functools.cache
def _port_claims() -> int:
    """Return the file whose byte N is locked by the process that was given port N."""
    return os.open(Path(tempfile.gettempdir(), f"tryon-test-ports-{os.getuid()}"), os.O_RDWR | os.O_CREAT, 0o600)


MOST_TRIES: Final = 10_000

_given_ports: Final[set[int]] = set()
"""Ports of this process; its own locks do not keep it from taking them again."""


def free_port(*offsets: int, among: Sequence[int] = SERVER_PORTS) -> int:
    """Return a TCP port of the loopback address that no other test is given.

    So are the ports that lie ``offsets`` above it. They stay this process's until it
    ends, also before its server listens and while it restarts. They are below those
    that Linux gives to connections and to servers that name none. Raises RuntimeError
    if there is none.
    """
    for _ in range(MOST_TRIES):
        first = secrets.choice(among)
        ports = {first, *(first + offset for offset in offsets)}
        if ports & _given_ports:
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as claims, contextlib.ExitStack() as probes:
            for port in ports:
                fcntl.lockf(_port_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                claims.callback(fcntl.lockf, _port_claims(), fcntl.LOCK_UN, 1, port)
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            claims.pop_all()
            _given_ports.update(ports)
            return first
    raise RuntimeError(f"no port of {among} is free")


def reserved_port() -> socket.socket:
    """Return a socket that is bound and never listens.

    Its port stays reserved for SO_REUSEPORT servers while they restart.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved
