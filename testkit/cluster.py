"""A whole installation as processes that can be broken.

Valkey, the database, several web processes and workers: each is started alone, as in
production, writes its log to ``<folder>/logs``, and may be killed, frozen, stopped and
started again while the others run. Web processes share one port, or have one each
behind a proxy (``balancer``). Everything ends with the block, and with this process.
Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from server.adapters.database import migrations
from server.adapters.redis.errors import QueueUnavailable
from server.config.settings import Config
from server.services import Services, open_services
from server.telemetry.metric_files import FOLDER_VARIABLE
from testkit.balancers import NODES, Balancer
from testkit.default_database import ON_POSTGRESQL
from testkit.disks import mounted_disk
from testkit.object_store import S3Server
from testkit.processes import START_SECONDS, free_port, reserved_port
from testkit.profiles import variables
from testkit.programs import Program
from testkit.proxy import Proxy, running_proxy
from testkit.published import publish_description
from testkit.sentinels import Sentinels
from testkit.servers import PostgresServer, ValkeyServer
from testkit.valkey_cluster import ValkeyCluster

BEHIND_BALANCER: Final[dict[str, Any]] = {"trusted_proxies": "127.0.0.1/32"}
"""Settings of web processes behind a balancer on the same machine."""


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
        self.sentinels: Sentinels | None = None
        """Instead of the single Valkey, a master and a replica that they watch."""
        self.news: ValkeyCluster | None = None
        """The cluster that carries the news; the queue stays in the single Valkey."""
        self.postgres: PostgresServer | None = None
        self.s3: S3Server | None = None
        """Keeps photos and results, if the cluster has no folder for them."""
        self.storage_proxy: Proxy | None = None
        """Between the product and the S3 server."""
        self.webs: list[Program] = []
        self.workers: list[Program] = []
        self.settings = dict(settings)
        self.environ: dict[str, str] = {}
        """TRYON_* of the product's processes."""
        self.port = 0
        """Port of the clients: all web processes share it (SO_REUSEPORT), or it is the
        balancer's.
        """
        self.balancer: Balancer | None = None
        self.nodes: list[int] = []
        """Ports of the web processes behind the balancer, in the order of ``webs``."""
        for made in (self.data, self.logs):
            made.mkdir(exist_ok=True)

    def __repr__(self) -> str:
        return f"<Cluster {self.url} {self.webs} {self.workers}>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def inner_urls(self) -> list[str]:
        """Addresses that answer past a balancer, which keeps private paths to itself.

        One for each web process that runs, unless they share one.
        """
        if self.balancer is None:
            return [self.url]
        return [f"http://127.0.0.1:{web.port}" for web in self.webs if web.running]

    @property
    def web(self) -> Program:
        return self.webs[0]

    @property
    def worker(self) -> Program:
        return self.workers[0]

    def _name_settings(self) -> None:
        valkey = self.valkey.tcp_url if self.proxy is None else f"redis://127.0.0.1:{self.proxy.port}/0"
        settings = self.settings | {"data_dir": self.data, "redis_url": valkey, "secret_key": "benchmark-" * 4}
        if self.balancer is not None:
            settings = BEHIND_BALANCER | settings
        if self.sentinels is not None:
            settings["redis_url"] = self.sentinels.url
        if self.news is not None:
            settings |= {"redis_url": self.news.url, "queue_redis_url": valkey}
        settings["start_check"] = "no"  # what is started in an outage waits for its end
        if self.postgres is not None:
            proxy = self.database_proxy
            settings["database_url"] = self.postgres.url("tryon", port=None if proxy is None else proxy.port)
        if self.s3 is not None:
            proxy = self.storage_proxy
            settings["storage_url"] = self.s3.storage_url("cluster", port=None if proxy is None else proxy.port)
        self.environ = variables(settings)
        if self.s3 is not None:
            self.environ |= self.s3.environ

    def stored(self) -> set[str]:
        """Return the names of all photos and results, past the product."""
        if self.s3 is not None:
            return {key for key in self.s3.keys("cluster") if key.startswith(("inputs/", "outputs/"))}
        uploads = self.data / "uploads"
        return {
            str(path.relative_to(uploads)) for folder in ("inputs", "outputs") for path in (uploads / folder).iterdir()
        }

    def make_web(self, environ: Mapping[str, str] | None = None, *, module: str = "server", **settings: Any) -> Program:
        """Return a web process that is not yet started.

        ``settings`` come on top of the cluster's, ``environ`` besides. ``module``: the
        program, of which the product's own is the usual one.
        """
        shared = self.balancer is None
        port = self.port if shared else self.nodes[len(self.webs)]
        environ = self.environ | variables(settings) | {"TRYON_PORT": str(port)} | dict(environ or {})
        name = f"web{len(self.webs) + 1}"
        command = (sys.executable, "-m", module, "serve", *(["--reuse-port"] if shared else []))
        self.webs.append(Program(name, command, environ, self.logs / f"{name}.log", port))
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
        """Bring the database up to date, here: a process for it costs 1.5 s of CPU."""
        config = Config.load(self.environ, env_file=None)
        await asyncio.to_thread(migrations.migrate, config)
        await publish_description(config.database, config.processor)

    @contextlib.asynccontextmanager
    async def services(self, **settings: Any) -> AsyncIterator[Services]:
        """Open the product's own use cases in this process.

        They look into the database, or play a part.
        """
        config = Config.load(self.environ | variables(settings), env_file=None)
        if self.s3 is not None:
            os.environ |= self.s3.environ  # obstore's clients read their keys there
        async with open_services(config) as services:
            await services.database.clock.synchronize()
            yield services

    @contextlib.contextmanager
    def reserving(self, balancer: str | None, port: int) -> Iterator[None]:
        """Choose the ports of the web processes: one, or several behind a balancer."""
        if balancer is None:
            with contextlib.closing(reserved_port()) as reserved:
                self.port = reserved.getsockname()[1]
                yield
            return
        self.nodes = [free_port() for _ in NODES]
        self.balancer = Balancer(balancer, self.nodes, self.folder / balancer, port=port)
        self.port = self.balancer.port
        yield

    @contextlib.asynccontextmanager
    async def running(self, *, webs: int, workers: int) -> AsyncIterator[None]:
        """Run so many web processes and workers, and the balancer if there is one."""
        try:
            for _ in range(webs):
                self.make_web()
            for _ in range(workers):
                await self.make_worker().start()
            for web in self.webs:
                await self.start_web(web)
            if workers:
                await self.workers_seen(workers)
            if self.balancer is not None:
                await self.balancer.start()
            yield
        finally:
            if self.balancer is not None:
                await self.balancer.close()
            await asyncio.gather(*(each.close() for each in (*self.webs, *self.workers)))

    async def workers_seen(self, count: int) -> None:
        """Wait until this many workers are registered in Redis."""
        async with self.services() as services, asyncio.timeout(START_SECONDS):
            seen = 0
            while seen < count:
                with contextlib.suppress(QueueUnavailable):  # a busy machine is not a broken one
                    seen = len(await services.queue.workers())
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running_cluster(
    *,
    webs: int = 1,
    workers: int = 1,
    postgres: bool | Mapping[str, str] = ON_POSTGRESQL,
    proxy: bool = False,
    database_proxy: bool = False,
    s3: bool = False,
    storage_proxy: bool = False,
    balancer: str | None = None,
    balancer_port: int = 0,
    disk_bytes: int | None = None,
    whole_disk: bool = False,
    valkey_options: tuple[str, ...] = (),
    redis: str = "single",
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """Run an installation; when the block begins, webs listen and workers are seen.

    Settings are in small letters, without ``TRYON_``. Web processes share one port; a
    frozen one keeps what the kernel gave it. With a ``balancer`` (nginx, haproxy or
    caddy, with its file of deploy/) up to two have ports of their own behind it.

    ``postgres``: instead of SQLite, by default as TEST_DATABASE says; a mapping sets
    its options. ``proxy``: between the product and Valkey. ``database_proxy``: between
    the product and PostgreSQL. ``redis``: ``single``, ``sentinels``, or ``cluster`` for
    one of the news with a replica of each master. ``s3``: photos and results in a
    bucket. ``storage_proxy``: before that. ``disk_bytes``: photos and results on a file
    system of that size.
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
            if redis == "sentinels":
                cluster.sentinels = Sentinels()
                stack.callback(cluster.sentinels.close)
                await cluster.sentinels.start()
            elif redis == "cluster":
                cluster.news = ValkeyCluster(replicas=True)
                stack.callback(cluster.news.close)
                await cluster.news.start()
            if proxy:
                cluster.proxy = await servers.enter_async_context(running_proxy(valkey.port))
            if postgres is not False:
                cluster.postgres = await _started_postgres(stack, postgres if isinstance(postgres, Mapping) else {})
                if database_proxy:
                    cluster.database_proxy = await servers.enter_async_context(running_proxy(cluster.postgres.port))
            if s3:
                cluster.s3 = stack.enter_context(contextlib.closing(S3Server()))
                await asyncio.to_thread(cluster.s3.start)
                if storage_proxy:
                    cluster.storage_proxy = await servers.enter_async_context(running_proxy(cluster.s3.port))
            stack.enter_context(cluster.reserving(balancer, balancer_port))
            cluster._name_settings()
            if whole_disk:
                cluster.environ[FOLDER_VARIABLE] = str(cluster.data / "metrics")
            await cluster.migrate()
            async with cluster.running(webs=webs, workers=workers):
                yield cluster


async def _started_postgres(stack: contextlib.ExitStack, options: Mapping[str, str]) -> PostgresServer:
    """Start PostgreSQL with an empty database until the stack is closed."""
    server = stack.enter_context(contextlib.closing(PostgresServer(durable=True, in_memory=False, **options)))
    await asyncio.to_thread(server.start)
    connection = await asyncpg.connect(server.url("postgres", "postgresql"))
    try:
        await connection.execute("CREATE DATABASE tryon")
    finally:
        await connection.close()
    return server
