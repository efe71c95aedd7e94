"""A whole installation as processes that can be broken.

Valkey, the database, several web processes and workers: each is started alone, as in
production, writes its log to ``<folder>/logs``, and may be killed, frozen, stopped and
started again while the others run. Everything ends with the block, and with this
process. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from server.adapters.redis.errors import QueueUnavailable
from server.config.settings import Config
from server.services import Services, open_services
from server.telemetry.metric_files import FOLDER_VARIABLE
from testkit.disks import mounted_disk
from testkit.processes import START_SECONDS, reserved_port
from testkit.profiles import variables
from testkit.programs import Program
from testkit.proxy import Proxy, running_proxy
from testkit.published import publish_description
from testkit.servers import PostgresServer, ValkeyServer


class Cluster:
    """Servers and programs of one installation; made by :func:`running_cluster`.

    ``webs`` and ``workers`` are in the order in which they were started.
    """

    def __init__(self, folder: Path, valkey: ValkeyServer, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.logs = folder / "logs"
        self.valkey = valkey
        self.proxy: Proxy | None = None
        """Between the product and Valkey."""
        self.database_proxy: Proxy | None = None
        """Between the product and PostgreSQL."""
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
        settings["start_check"] = "no"  # what is started in an outage waits for its end
        if self.postgres is not None:
            proxy = self.database_proxy
            settings["database_url"] = self.postgres.url("tryon", port=None if proxy is None else proxy.port)
        self.environ = variables(settings)

    def make_web(self, environ: Mapping[str, str] | None = None, *, module: str = "server", **settings: Any) -> Program:
        """Return a web process that is not yet started.

        ``settings`` come on top of the cluster's, ``environ`` besides. ``module``: the
        program, of which the product's own is the usual one.
        """
        environ = self.environ | variables(settings) | {"TRYON_PORT": str(self.port)} | dict(environ or {})
        name = f"web{len(self.webs) + 1}"
        command = (sys.executable, "-m", module, "serve", "--reuse-port")
        self.webs.append(Program(name, command, environ, self.logs / f"{name}.log", self.port))
        return self.webs[-1]

    def make_worker(self, environ: Mapping[str, str] | None = None, **settings: Any) -> Program:
        environ = self.environ | variables(settings) | dict(environ or {})
        name = f"worker{len(self.workers) + 1}"
        command = (sys.executable, "-m", "arq", "worker.Settings")
        self.workers.append(Program(name, command, environ, self.logs / f"{name}.log"))
        return self.workers[-1]

    async def start_web(self, web: Program) -> None:
        """Start a web process and wait until it listens itself.

        Others may share its port. Raises SystemExit if it ends instead.
        """
        await web.start()
        async with asyncio.timeout(START_SECONDS):
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
        if await program.ended(START_SECONDS):
            raise SystemExit(f"the migrations failed:\n{program.log.read_text()}")
        config = Config.load(self.environ, env_file=None)
        await publish_description(config.database, config.processor)

    @contextlib.asynccontextmanager
    async def services(self, **settings: Any) -> AsyncIterator[Services]:
        """Open the product's own use cases in this process.

        They look into the database, or play a part.
        """
        config = Config.load(self.environ | variables(settings), env_file=None)
        async with open_services(config) as services:
            await services.database.clock.synchronize()
            yield services

    async def workers_seen(self, count: int) -> None:
        """Wait until this many workers are registered in Redis."""
        async with self.services() as services, asyncio.timeout(START_SECONDS):
            seen = 0
            while seen < count:
                with contextlib.suppress(QueueUnavailable):  # a busy machine is not a broken one
                    seen = await services.queue.workers()
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running_cluster(
    *,
    webs: int = 1,
    workers: int = 1,
    postgres: bool | Mapping[str, str] = False,
    proxy: bool = False,
    database_proxy: bool = False,
    disk_bytes: int | None = None,
    whole_disk: bool = False,
    valkey_options: tuple[str, ...] = (),
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """Run an installation; when the block begins, webs listen and workers are seen.

    Settings are in small letters, without ``TRYON_``. Web processes share one port; a
    frozen one keeps what the kernel gave it.

    ``postgres``: instead of SQLite; a mapping sets its options. ``proxy``: between the
    product and Valkey. ``database_proxy``: between the product and PostgreSQL.
    ``disk_bytes``: photos and results on a file system of that size.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tryon-cluster-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if whole_disk:
            valkey_options += ("--appendonly", "yes", "--dir", str(folder / "data" / "valkey"))
        valkey = ValkeyServer(tcp=True, options=valkey_options)
        stack.callback(valkey.close)
        cluster = Cluster(folder, valkey, settings)
        async with contextlib.AsyncExitStack() as servers:
            if disk_bytes is not None:
                disk = cluster.data if whole_disk else cluster.data / "uploads"
                stack.enter_context(mounted_disk(disk, str(disk_bytes)))
            if whole_disk:
                (cluster.data / "valkey").mkdir()
                (cluster.data / "metrics").mkdir()
            await asyncio.to_thread(valkey.start)
            if proxy:
                cluster.proxy = await servers.enter_async_context(running_proxy(valkey.port))
            if postgres is not False:
                cluster.postgres = PostgresServer(durable=True, **(postgres if isinstance(postgres, Mapping) else {}))
                stack.callback(cluster.postgres.close)
                await asyncio.to_thread(cluster.postgres.start)
                await _create_database(cluster.postgres)
                if database_proxy:
                    cluster.database_proxy = await servers.enter_async_context(running_proxy(cluster.postgres.port))
            cluster._name_settings()
            if whole_disk:
                cluster.environ[FOLDER_VARIABLE] = str(cluster.data / "metrics")
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
