"""Outages of the database and the disk: refusals, and sockets that stay."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import update

from server.adapters.database import migrations, tables
from server.adapters.database.tables import database_time
from server.adapters.files import threads
from server.config.settings import Config
from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.reconciler import timing
from testkit.disks import silent_disk
from testkit.fixtures import disk_of
from testkit.locks import write_locked
from testkit.published import publish_description
from testkit.running import StartWeb, Web, running_web, until
from testkit.servers import PostgresServer
from tryon.protocol.errors import StorageFull, Unavailable
from tryon.protocol.states import Status

MakeConfig = Callable[..., Config]
SESSIONS = "/api/tryon/sessions"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "RECONCILE_SECONDS", 0.2)


@pytest.fixture
def photo(photos: Path) -> bytes:
    return (photos / "photo.webp").read_bytes()


async def upload(web: Web, photo: bytes) -> httpx.Response:
    return await web.client.post(SESSIONS, files={"image": photo})


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (status, code, True), answer.text
    if status == 503:
        assert int(answer.headers["Retry-After"]) >= 1


def files(web: Web) -> list[str]:
    return sorted(path.name for path in web.config.uploads_dir.rglob("*") if path.is_file())


async def rows(web: Web) -> int:
    async with web.database.connections.read() as connection:
        count = await connection.exec_driver_sql("SELECT count(*) FROM tryon_sessions")
        return int(count.scalar_one())


async def in_spite_of(call: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """Retry as a worker does, until the database takes the call."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.05)


async def ends_well(web: Web, photo: bytes) -> None:
    """Check that nothing is wrong: a photo goes its whole way, on a socket."""
    answer = await upload(web, photo)
    assert answer.status_code == 201, answer.text
    session = await web.database.reader.get(answer.json()["session_id"])
    assert session is not None
    async with web.follow(session.id, answer.json()["client_token"]) as client:
        await client.next("snapshot")
        await web.complete(await web.begin(session))
        assert await client.rest() == 1000
        assert client.story() == [1, 2, 3]


# -- SQLite: another program holds the write lock --------------------------------------


async def test_locked_sqlite_refuses_writes_and_serves_reads(
    start_web: StartWeb, sqlite_url: str, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program holds the write lock: uploads get a 503, reads go on."""
    monkeypatch.setattr("server.adapters.database.engine.BUSY_SECONDS", 1.0)
    web = await start_web(lease_seconds=1.0)
    session, token = await web.submit()
    claim = await web.begin(session)
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        async with write_locked(sqlite_url):
            begun = time.monotonic()
            answers = await asyncio.gather(*(upload(web, photo) for _ in range(16)))
            assert time.monotonic() - begun < 10, "nobody waits for all the others' turns"
            for answer in answers:
                assert_refused(answer, 503, "unavailable")
            look = await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
            assert look.status_code == 200, "readers never wait for the writer"
            with pytest.raises(Unavailable):
                await web.services.sessions.claims.renew(claim)
            await until(lambda: web.database.clock.now() > claim.session.lease_expires_at.timestamp() + 0.3)  # type: ignore[union-attr]
        assert await in_spite_of(lambda: web.services.sessions.claims.renew(claim)) == "held", "granted one more period"
        await web.complete(claim)
        assert await client.rest() == 1000
        assert client.story() == [2, 3]
    await until(lambda: len(files(web)) == 2)
    assert await rows(web) == 1
    await ends_well(web, photo)


# -- PostgreSQL: gone, and full --------------------------------------------------------


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[tuple[PostgresServer, str]]:
    """Start a PostgreSQL for this test alone; yield it and a migrated database's URL.

    It is durable: a kill loses no commit.
    """
    with contextlib.closing(PostgresServer(durable=True, max_connections="20")) as server:
        await asyncio.to_thread(server.start)
        url = server.url("postgres")
        settings = Config(data_dir=tmp_path / "data", database_url=url)
        await asyncio.to_thread(migrations.migrate, settings)
        await publish_description(settings.database)
        yield server, url


async def test_postgres_restart_costs_only_a_503(
    start_web: StartWeb, own_postgres: tuple[PostgresServer, str], photo: bytes
) -> None:
    """The socket stays, the lease is granted again, and nothing is left behind."""
    server, url = own_postgres
    web = await start_web(database_url=url, lease_seconds=1.0)
    session, token = await web.submit()
    claim = await web.begin(session)
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await asyncio.to_thread(server.kill)
        for _ in range(3):
            assert_refused(await upload(web, photo), 503, "unavailable")
        look = await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
        assert_refused(look, 503, "unavailable")
        assert (await web.client.get("/api/health/ready")).status_code == 503
        assert claim.session.lease_expires_at is not None
        lapsed_at = claim.session.lease_expires_at.timestamp() + 0.3
        await until(lambda: web.database.clock.now() > lapsed_at)
        await asyncio.to_thread(server.start_again)
        assert await in_spite_of(lambda: web.services.sessions.claims.renew(claim)) == "held", "granted one more period"
        await in_spite_of(lambda: web.services.sessions.claims.complete(claim, [NewFile(b"result")]))
        assert await client.rest() == 1000
        assert client.story() == [2, 3]
    await until(lambda: len(files(web)) == 2)
    await ends_well(web, photo)


async def test_postgres_without_connections_is_a_503(
    start_web: StartWeb, own_postgres: tuple[PostgresServer, str], photo: bytes
) -> None:
    """Until a connection is free, and everything works afterwards."""
    server, url = own_postgres
    web = await start_web(database_url=url)
    session, token = await web.submit()
    plain = server.url("postgres", "postgresql")
    async with contextlib.AsyncExitStack() as stack, web.follow(session.id, token) as client:
        await client.next("snapshot")
        admin = await asyncpg.connect(plain)
        stack.push_async_callback(admin.close)
        while True:  # take each connection, also those that the web had
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND application_name <> 'hog' AND pid <> pg_backend_pid()"
            )
            try:
                hog = await asyncpg.connect(plain, server_settings={"application_name": "hog"})
            except asyncpg.TooManyConnectionsError:
                break
            stack.push_async_callback(hog.close)
        answer = await upload(web, photo)
        with contextlib.suppress(AssertionError):
            assert_refused(answer, 503, "unavailable")  # the first ones may meet a connection that was cut
        for _ in range(3):
            assert_refused(await upload(web, photo), 503, "unavailable")
        await stack.aclose()
        claim = await in_spite_of(lambda: web.services.sessions.claims.begin(session.id, worker="w"))
        assert claim is not None
        await in_spite_of(lambda: web.services.sessions.claims.complete(claim, [NewFile(b"result")]))
        assert await client.rest() == 1000
        assert client.story() == [1, 2, 3]
    await until(lambda: len(files(web)) == 2)
    await ends_well(web, photo)


# -- the disk is full ------------------------------------------------------------------


def fill(folder: Path, *, but: int = 0) -> Path:
    """Fill the disk but for this many bytes, or a few less."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    if but:
        with filler.open("rb+") as file:
            file.truncate(filler.stat().st_size - but)
    return filler


async def test_full_photo_disk_is_507(start_web: StartWeb, small_disk: Path, photo: bytes) -> None:
    """A refused upload leaves no file and no row."""
    web = await start_web(data_dir=small_disk)
    filler = fill(small_disk, but=4096 if len(photo) > 4096 else 0)
    for _ in range(3):
        assert_refused(await upload(web, photo), 507, "storage_full")
        assert files(web) == []
    assert await rows(web) == 0
    filler.unlink()
    await ends_well(web, photo)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk with room for an SQLite database and its log."""
    with disk_of(tmp_path / "database-disk", "2m") as folder:
        yield folder


async def test_full_sqlite_disk_is_507(
    config: MakeConfig,
    sqlite_url: str,
    disk: Path,
    tmp_path: Path,
    photo: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused uploads leave nothing; reads go on, and what runs ends in the reserve."""
    monkeypatch.setattr(timing, "SCRUB_SECONDS", 3600)  # emptying its log would make room
    shutil.copy(sqlite_url.partition(":///")[2], disk / "tryon.sqlite3")
    settings = config(data_dir=tmp_path / "elsewhere", database_url=f"sqlite+aiosqlite:///{disk}/tryon.sqlite3")
    async with running_web(settings) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            claim = await web.begin(session)
            filler = fill(disk)
            for _ in range(3):
                assert_refused(await upload(web, photo), 507, "storage_full")
            assert len(files(web)) == await rows(web) == 1
            look = await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
            assert look.status_code == 200
            await in_spite_of(lambda: web.services.sessions.claims.complete(claim, [NewFile(b"result")]))
            assert await client.rest() == 1000
            assert client.story()[-1] == 3
        filler.unlink()
        await ends_well(web, photo)


@pytest.mark.parametrize("room", [0, 4096, 40_000], ids=["none", "a page", "less than a commit"])
async def test_full_data_folder_ends_and_erases_sessions(
    config: MakeConfig,
    sqlite_url: str,
    tmp_path: Path,
    photo: bytes,
    room: int,
) -> None:
    """Fill the disk under photos and database alike.

    Uploads get 507 and leave nothing; what runs ends, sessions are deleted and expire;
    and uploads are taken again as soon as there is room.
    """
    with disk_of(tmp_path / "whole", "16m") as disk:
        shutil.copy(sqlite_url.partition(":///")[2], disk / "tryon.sqlite3")
        settings = config(data_dir=disk, database_url=f"sqlite+aiosqlite:///{disk}/tryon.sqlite3")
        async with running_web(settings) as web:
            deleted, token = await web.submit()
            running, its_token = await web.submit()
            expiring, _ = await web.submit()
            claim = await web.begin(running)
            async with web.follow(running.id, its_token) as client, web.follow(deleted.id, token) as other:
                await client.next("snapshot")
                await other.next("snapshot")
                filler = fill(disk, but=room)
                before = files(web)
                for _ in range(3):
                    assert_refused(await upload(web, photo), 507, "storage_full")
                assert files(web) == before
                with pytest.raises(StorageFull):
                    await in_spite_of(lambda: web.services.sessions.claims.complete(claim, [NewFile(bytes(10_000))]))
                assert await web.services.sessions.claims.fail(claim, "storage_full")
                assert await client.rest() == 1000
                gone = await web.client.delete(f"{SESSIONS}/{deleted.id}", headers={"X-Client-Token": token})
                assert gone.status_code == 200, gone.text
                assert await other.rest() == 4510
            async with web.database.connections.write() as connection:
                await connection.execute(
                    update(tables.sessions)
                    .where(tables.sessions.c.id == expiring.id)
                    .values(expires_at=database_time(-1.0))
                )
            async with asyncio.timeout(20):
                while len(files(web)) > 1 or await rows(web) > 1:
                    await asyncio.sleep(0.05)  # nothing announces an expiry that is not followed
            assert_refused(await upload(web, photo), 507, "storage_full")
            filler.unlink()
            await ends_well(web, photo)
            await until(lambda: (disk / "tryon.sqlite3-reserve").stat().st_blocks * 512 >= 2**20)


async def test_result_without_disk_space_fails_the_session(start_web: StartWeb, small_disk: Path) -> None:
    """No part of the result is left, and the session fails with ``storage_full``."""
    web = await start_web(data_dir=small_disk)
    session, token = await web.submit()
    claim = await web.begin(session)
    fill(small_disk)
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(3):
            with pytest.raises(StorageFull):
                await web.services.sessions.claims.complete(claim, [NewFile(bytes(100_000))])
        assert files(web) == [f"{session.id}-person-0.jpg"]
        assert await web.services.sessions.claims.fail(claim, "storage_full")
        assert await client.rest() == 1000
        assert client.frames[-2]["data"]["error"]["code"] == "storage_full"
    ended: Session | None = await web.database.reader.get(session.id)
    assert ended is not None and ended.status is Status.FAILED


@contextlib.contextmanager
def silent_storage(folder: Path) -> Iterator[None]:
    """Let every call that looks for a photo or a result wait for ever."""
    with contextlib.ExitStack() as stack:
        try:
            for each in ("inputs", "outputs"):
                stack.enter_context(silent_disk(folder / each))
        except PermissionError as error:
            pytest.skip(str(error))
        yield


async def test_silent_storage_delays_nothing_else(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, photo: bytes
) -> None:
    """Pages, health, reads and name resolution go on; a stop and a return do, too."""
    monkeypatch.setattr(threads, "ANSWER_SECONDS", 0.3)
    stopping = contextlib.AsyncExitStack()
    async with stopping:
        web = await stopping.enter_async_context(running_web(config()))
        session, token = await web.submit()
        own = {"Authorization": f"Bearer {token}"}
        link = (await web.client.get(f"{SESSIONS}/{session.id}", headers=own)).json()["links"]["input"]
        with silent_storage(web.config.uploads_dir):
            hanging = [asyncio.create_task(web.client.get(link)) for _ in range(40)]
            await until(lambda: web.services.storage_threads._threads == threads.THREADS)
            async with asyncio.timeout(10):
                for path in ("/", "/api/health/live", f"{SESSIONS}/{session.id}"):
                    assert (await web.client.get(path, headers=own)).status_code == 200, path
                assert await asyncio.get_running_loop().getaddrinfo("localhost", 80)
                assert (await web.client.get("/api/health/ready")).status_code == 503
                assert {answer.status_code for answer in await asyncio.gather(*hanging)} == {503}
                assert_refused(await upload(web, photo), 503, "unavailable")
        await until(lambda: web.services.storage_threads._held == 0)
        assert (await web.client.get(link)).status_code == 200
        assert (await web.client.get("/api/health/ready")).status_code == 200
        assert (await upload(web, photo)).status_code == 201
        with silent_storage(web.config.uploads_dir):
            getting = (web.services.files.get(session.inputs[0].key) for _ in range(threads.THREADS))
            held = await asyncio.gather(*getting, return_exceptions=True)
            assert all(isinstance(each, Unavailable) for each in held)
            async with asyncio.timeout(10):
                await stopping.aclose()


async def test_delete_notifies_when_storage_is_silent(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is notified though no receipt can be made, and the files go later."""
    monkeypatch.setattr(threads, "ANSWER_SECONDS", 0.3)
    async with running_web(config()) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            with silent_storage(web.config.uploads_dir):
                own = {"Authorization": f"Bearer {token}"}
                assert_refused(await web.client.delete(f"{SESSIONS}/{session.id}", headers=own), 503, "unavailable")
                assert await client.rest() == 4510
                assert client.frames[-1]["reason"] == "deleted"
        await until(lambda: not files(web))


async def test_web_process_starts_while_storage_is_silent(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, photo: bytes
) -> None:
    """It serves what needs no storage, and the rest when the storage answers again."""
    async with running_web(config()) as web:
        session, token = await web.submit()
    monkeypatch.setattr(threads, "ANSWER_SECONDS", 0.2)
    own = {"Authorization": f"Bearer {token}"}
    async with contextlib.AsyncExitStack() as stack:
        with silent_storage(web.config.uploads_dir):
            web = await stack.enter_async_context(running_web(config()))
            assert (await web.client.get(f"{SESSIONS}/{session.id}", headers=own)).status_code == 200
            assert_refused(await upload(web, photo), 503, "unavailable")
        assert any("cannot be used now" in line for line in caplog.messages)
        await until(lambda: web.services.storage_threads._held == 0)
        monkeypatch.undo()
        assert (await upload(web, photo)).status_code == 201
