"""A whole installation as processes that can be hurt:

Valkey, the database, several web processes and workers.

Each is started alone, as in production, writes its log to ``<folder>/logs``, and may be
killed, frozen, stopped and started again while the others run. Everything ends with the
block, and with this process. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil
import redis.asyncio

from server.adapters.redis.queue import QueueAway
from server.config.settings import Config
from server.services import Services, open_services
from testkit.proxy import Proxy, running_proxy
from testkit.servers import PostgresServer, ValkeyServer
from testkit.stack import READY_SECONDS, reserved_port, spawn

HARSH: Final[dict[str, Any]] = {
    "upload_rate": "6000/minute",
    "mock_failure_rate": 0,
    "sockets_per_address": 20000,
    "log_level": "info",
    "log_format": "text",
}
"""What every cluster changes of the product's settings: the load comes from few
addresses, and no session fails by chance.
"""


class Program:
    """One process of the product."""

    def __init__(
        self, name: str, command: tuple[str, ...], environ: Mapping[str, str], log: Path, port: int = 0
    ) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._command = command
        self._environ = dict(environ)
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<Program {self.name} pid={self.pid if self.running else None}>"

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it (again). Returns at once."""
        assert not self.running, "it runs already"
        self._process = await spawn(*self._command, environ=self._environ, log=self.log)

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP: it holds all it has and does nothing."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        await self.process.wait()

    async def terminate(self, seconds: float = 20.0) -> int:
        """SIGTERM, and wait until it is gone; its exit status. Raises TimeoutError."""
        self.send(signal.SIGTERM)
        return await self.ended(seconds)

    async def ended(self, seconds: float = 20.0) -> int:
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def close(self) -> None:
        if self.running:
            self.thaw()
            try:
                await self.terminate(10)
            except TimeoutError:
                await self.kill()


class Cluster:
    """See :func:`running_cluster`.

    ``webs`` and ``workers`` in the order in which they were started.
    """

    def __init__(self, folder: Path, valkey: ValkeyServer, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.logs = folder / "logs"
        self.valkey = valkey
        self.proxy: Proxy | None = None
        self.postgres: PostgresServer | None = None
        self.webs: list[Program] = []
        self.workers: list[Program] = []
        self.settings = dict(settings)
        self.environ: dict[str, str] = {}
        """TRYON_* of the product's processes."""
        self.port = 0
        """All web processes share it (SO_REUSEPORT)."""
        for made in (self.data, self.logs):
            made.mkdir(exist_ok=True)

    def __repr__(self) -> str:
        return f"<Cluster {self.url} {self.webs} {self.workers}>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def web(self) -> Program:
        return self.webs[0]

    @property
    def worker(self) -> Program:
        return self.workers[0]

    def _name_settings(self) -> None:
        valkey = self.valkey.tcp_url if self.proxy is None else f"redis://127.0.0.1:{self.proxy.port}/0"
        settings = self.settings | {"data_dir": self.data, "redis_url": valkey, "secret_key": "benchmark-" * 4}
        if self.postgres is not None:
            settings["database_url"] = self.postgres.url("tryon")
        self.environ = {f"TRYON_{name.upper()}": str(value) for name, value in settings.items()}

    def make_web(self, environ: Mapping[str, str] | None = None, **settings: Any) -> Program:
        """A web process, not yet started; ``settings`` on top of the cluster's,
        ``environ`` besides.
        """
        environ = self.environ | _variables(settings) | {"TRYON_PORT": str(self.port)} | dict(environ or {})
        name = f"web{len(self.webs) + 1}"
        command = (sys.executable, "-m", "server", "serve", "--reuse-port")
        self.webs.append(Program(name, command, environ, self.logs / f"{name}.log", self.port))
        return self.webs[-1]

    def make_worker(self, environ: Mapping[str, str] | None = None, **settings: Any) -> Program:
        environ = self.environ | _variables(settings) | dict(environ or {})
        name = f"worker{len(self.workers) + 1}"
        command = (sys.executable, "-m", "arq", "worker.Settings")
        self.workers.append(Program(name, command, environ, self.logs / f"{name}.log"))
        return self.workers[-1]

    async def start_web(self, web: Program) -> None:
        """Start it and wait until it listens itself: others may share its port.

        Raises SystemExit if it ends instead.
        """
        await web.start()
        async with asyncio.timeout(READY_SECONDS):
            while web.running:
                with contextlib.suppress(psutil.Error):
                    connections = psutil.Process(web.pid).net_connections("tcp")
                    if any(each.status == "LISTEN" and each.laddr.port == web.port for each in connections):
                        return
                await asyncio.sleep(0.02)
        raise SystemExit(f"{web.name} ended with {web.process.returncode}:\n{web.log.read_text()}")

    async def migrate(self) -> None:
        program = Program(
            "migrate", (sys.executable, "-m", "server", "migrate"), self.environ, self.logs / "migrate.log"
        )
        await program.start()
        if await program.ended(READY_SECONDS):
            raise SystemExit(f"the migrations failed:\n{program.log.read_text()}")

    @contextlib.asynccontextmanager
    async def services(self, **settings: Any) -> AsyncIterator[Services]:
        """The product's own use cases, in this process: to look into the database, or
        to play a part.
        """
        config = Config.load(self.environ | _variables(settings), env_file=None)
        async with open_services(config) as services:
            await services.store.synchronize_clock()
            yield services

    async def workers_seen(self, count: int) -> None:
        """Wait until so many workers have noted themselves in Redis."""
        async with self.services() as services, asyncio.timeout(READY_SECONDS):
            seen = 0
            while seen < count:
                with contextlib.suppress(QueueAway):  # a busy machine is not a broken one
                    seen = await services.queue.workers()
                await asyncio.sleep(0.02)

    # -- what can be done to the servers -----------------------------------------------

    async def redis(self, *command: str | int) -> Any:
        """One command to Valkey itself, past the proxy."""
        async with redis.asyncio.Redis(unix_socket_path=str(self.valkey.socket_path)) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def start_valkey(self) -> None:
        await asyncio.to_thread(self.valkey.start)

    async def fill_valkey(self) -> None:
        """Out of memory, without eviction: every command that would add something is
        refused.
        """
        await self.redis("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")

    async def empty_valkey(self) -> None:
        await self.redis("CONFIG", "SET", "maxmemory", "0")

    async def overrun_subscribers(self, channel: str, message: bytes, *, copies: int = 400) -> None:
        """Have Valkey cut off whoever is subscribed to ``channel``, by its own limit on
        output buffers.
        """
        await self.redis("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 32768 1")
        client = redis.asyncio.Redis(unix_socket_path=str(self.valkey.socket_path))
        async with (
            client,
            client.pipeline(transaction=True) as pipe,
        ):  # one turn of its loop: nothing is written meanwhile
            for _ in range(copies):
                pipe.publish(channel, message)
            await pipe.execute()
        await self.redis("CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60")

    async def freeze(self, program: Program) -> None:
        """SIGSTOP at a moment when it does not hold SQLite's one write lock: with that,
        it would stop everybody.
        """
        while True:
            program.freeze()
            try:
                with self.locked_sqlite(busy_seconds=0.1) if self.postgres is None else contextlib.nullcontext():
                    return
            except sqlite3.OperationalError:
                program.thaw()
                await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def locked_sqlite(self, busy_seconds: float = 10.0) -> Iterator[None]:
        """Hold the database's one write lock."""
        with contextlib.closing(sqlite3.connect(self.data / "tryon.sqlite3", isolation_level=None)) as connection:
            connection.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")
            connection.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    async def restart_postgres(self) -> None:
        """As ``pg_ctl restart -m immediate``."""
        assert self.postgres is not None
        await asyncio.to_thread(self.postgres.kill)
        await asyncio.to_thread(self.postgres.start_again)

    @contextlib.asynccontextmanager
    async def exhausted_postgres(self) -> AsyncIterator[int]:
        """Take every connection that PostgreSQL has to give, those of the product
        included; how many.
        """
        assert self.postgres is not None
        url = self.postgres.url("tryon", "postgresql")
        taken: list[asyncpg.Connection] = []
        try:
            while True:
                try:
                    taken.append(await asyncpg.connect(url))
                except asyncpg.TooManyConnectionsError:
                    if not await _end_others(taken):
                        break
            yield len(taken)
        finally:
            for connection in taken:
                await connection.close()

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """With ``disk_bytes``: not a byte more fits into the folder of photos and
        results.
        """
        ballast = self.data / "uploads" / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
        try:
            yield
        finally:
            ballast.unlink()


async def _end_others(ours: list[asyncpg.Connection]) -> int:
    """End the product's connections, so that they can be taken too; how many there
    were.
    """
    rows = await ours[0].fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> ALL($1::int[])",
        [connection.get_server_pid() for connection in ours],
    )
    return len(rows)


def _variables(settings: Mapping[str, Any]) -> dict[str, str]:
    return {f"TRYON_{name.upper()}": str(value) for name, value in settings.items()}


@contextlib.contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """A file system of its own. Raises PermissionError unless root."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        raise PermissionError("mounting a tmpfs needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.asynccontextmanager
async def running_cluster(
    *,
    webs: int = 1,
    workers: int = 1,
    postgres: bool | Mapping[str, str] = False,
    proxy: bool = False,
    disk_bytes: int | None = None,
    valkey_options: tuple[str, ...] = (),
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """Everything up and ready: web processes listen, workers are seen.

    Settings in small letters, without ``TRYON_``.

    Web processes share one port; a frozen one keeps what the kernel gave it.
    ``postgres``: instead of SQLite; a mapping sets its options. ``proxy``: between the
    product and Valkey. ``disk_bytes``: photos and results on a file system of that
    size.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tryon-cluster-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        valkey = ValkeyServer(tcp=True, options=valkey_options)
        stack.callback(valkey.close)
        cluster = Cluster(folder, valkey, HARSH | settings)
        async with contextlib.AsyncExitStack() as servers:
            if disk_bytes is not None:
                stack.enter_context(_small_disk(cluster.data / "uploads", disk_bytes))
            await cluster.start_valkey()
            if proxy:
                cluster.proxy = await servers.enter_async_context(running_proxy(valkey.port))
            if postgres is not False:
                cluster.postgres = PostgresServer(durable=True, **(postgres if isinstance(postgres, Mapping) else {}))
                stack.callback(cluster.postgres.close)
                await asyncio.to_thread(cluster.postgres.start)
                await _create_database(cluster.postgres)
            cluster._name_settings()
            await cluster.migrate()
            reserved = reserved_port()
            stack.callback(reserved.close)
            cluster.port = reserved.getsockname()[1]
            try:
                for _ in range(webs):
                    cluster.make_web()
                for _ in range(workers):
                    await cluster.make_worker().start()
                for web in cluster.webs:
                    await cluster.start_web(web)
                if workers:
                    await cluster.workers_seen(workers)
                yield cluster
            finally:
                await asyncio.gather(*(each.close() for each in (*cluster.webs, *cluster.workers)))


async def _create_database(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url("postgres", "postgresql"))
    try:
        await connection.execute("CREATE DATABASE tryon")
    finally:
        await connection.close()
