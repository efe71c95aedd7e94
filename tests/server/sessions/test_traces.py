"""Traces of an erased session: none in the data folder, in Redis or in its file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis.asyncio

from server.adapters.redis import bus as bus_module
from server.config.settings import Config
from server.domain.session import Session
from server.domain.tokens import new_token, token_hash
from server.reconciler import timing
from server.services import Services, open_services
from testkit.fixtures import StartValkey
from testkit.running import PHOTO, Web, running_web, until

MakeConfig = Callable[..., Config]
SECRET = "known-to-this-client-only"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry the traces in Redis ten times a second, and rewrite once a second."""
    monkeypatch.setattr(timing, "TRACES_SECONDS", 0.1)
    monkeypatch.setattr(bus_module, "REWRITE_SECONDS", 1)


def files_with(folder: Path, needles: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """Return the files that contain these bytes, each with the bytes it contains."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes() if path.is_file() else b""
            found += [(path.name, needle) for needle in needles if needle in content]
    return found


def traces_of(session: Session) -> list[bytes]:
    """Return the bytes that identify a session."""
    return [session.id.encode(), session.id.replace("-", "").encode(), session.owner.encode(), SECRET.encode()]


async def submitted(services: Services, token: str) -> Session:
    """Submit a session with :data:`SECRET` among its parameters."""
    return await services.sessions.submissions.submit(
        owner=token_hash(token), inputs=[PHOTO], params={"said": SECRET}, request_id=None
    )


async def deleted(web: Web, session: Session, token: str) -> None:
    """Delete a session over HTTP."""
    answer = await web.client.delete(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
    assert answer.status_code == 200


async def keys_of(redis_url: str, session: Session) -> list[str]:
    """Return every key and job in Redis that names the session."""
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        found = [key async for key in client.scan_iter(count=1000) if session.id in key]
        return found + [job for job in await client.zrange("tryon:queue", 0, -1) if session.id in job]


async def test_sqlite_holds_no_byte_after_erasure(config: MakeConfig, sqlite_url: str) -> None:
    """Find no byte of a deleted session in any file of the data folder."""
    async with running_web(config()) as web:
        others = [(await web.submit())[0] for _ in range(3)]
        token = new_token()
        session = await submitted(web.services, token)
        await web.complete(await web.begin(session))
        assert {needle for _, needle in files_with(web.config.data_dir, traces_of(session))} >= {SECRET.encode()}
        await deleted(web, session, token)
        await until(lambda: not files_with(web.config.data_dir, traces_of(session)))
        for each in others:
            assert await web.database.reader.get(each.id) is not None


async def test_reader_delays_the_scrub_only(config: MakeConfig, sqlite_url: str) -> None:
    """Empty SQLite's log as soon as a reader that held it up has finished."""
    async with running_web(config()) as web:
        token = new_token()
        session = await submitted(web.services, token)
        async with web.database.connections.engine.execution_options(tryon_read=True).connect() as reading:
            await reading.exec_driver_sql("BEGIN")
            await reading.exec_driver_sql("SELECT count(*) FROM tryon_sessions")
            await deleted(web, session, token)
            assert not await web.database.upkeep.scrub()
            assert files_with(web.config.data_dir, traces_of(session))
            await web.submit()  # writers go on
            await reading.exec_driver_sql("COMMIT")
        await until(lambda: not files_with(web.config.data_dir, traces_of(session)))


async def rendering(web: Web) -> tuple[Session, str]:
    """Submit a session and report its progress; return it and its owner's token."""
    token = new_token()
    session = await submitted(web.services, token)
    claim = await web.begin(session)
    await web.services.sessions.claims.report(claim, 0.5, "rendering")
    await until(lambda: claim.reports.timer is None)
    return session, token


async def rewritten_at_start(web: Web) -> None:
    """Wait until the rewrite that every start of the product asks for is over."""
    async with asyncio.timeout(30):
        while await web.services.redis.get(f"{web.config.key_prefix}file") != b"clean":
            await asyncio.sleep(0.02)


async def test_redis_rewrites_its_file_after_erasure(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have Redis rewrite its file after an erasure, at most once a minute."""
    monkeypatch.setattr(bus_module, "REWRITE_SECONDS", 45)
    valkey = start_valkey(persistent=True)
    async with running_web(config(redis_url=valkey.url)) as web:
        (first, token), (second, other_token) = [await rendering(web) for _ in range(2)]
        await until(lambda: files_with(valkey.folder, [first.id.encode()]))
        await rewritten_at_start(web)
        await web.services.redis.delete(f"{web.config.key_prefix}rewritten")  # a minute later
        await deleted(web, first, token)
        await until(lambda: not files_with(valkey.folder, [first.id.encode()]), seconds=30)
        assert files_with(valkey.folder, [second.id.encode()])

        await deleted(web, second, other_token)
        assert await keys_of(valkey.url, second) == []
        for _ in range(3):
            assert not await web.services.bus.rewrite_log(), "a moment ago"
        await web.services.redis.delete(f"{web.config.key_prefix}rewritten")  # a minute later
        await until(lambda: not files_with(valkey.folder, [second.id.encode()]), seconds=30)


async def test_redis_forgets_when_it_is_back(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Delete the keys of a session that was erased while Redis was down."""
    valkey = start_valkey(persistent=True)
    async with running_web(config(redis_url=valkey.url)) as web:
        session, token = await rendering(web)
        await rewritten_at_start(web)  # a kill in the middle would leave either file
        await until(lambda: files_with(valkey.folder, [session.id.encode()]))
        valkey.kill()
        await deleted(web, session, token)
        assert files_with(valkey.folder, [session.id.encode()])
        valkey.start()
        async with asyncio.timeout(10):
            while await keys_of(valkey.url, session):
                await asyncio.sleep(0.02)
        await until(lambda: not files_with(valkey.folder, [session.id.encode()]))


async def test_copy_of_a_killed_rewrite_is_removed(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Remove the half-written copy of all keys that a killed Valkey left."""
    valkey = start_valkey(persistent=True, options=("--rdb-key-save-delay", "200000"))
    async with running_web(config(redis_url=valkey.url)) as web:
        session, token = await rendering(web)
        await until(lambda: list(valkey.folder.glob("temp-*")))
        valkey.kill()
        (copy,) = valkey.folder.glob("temp-*")
        copy.write_bytes(session.id.encode())  # as if it had come further
        await deleted(web, session, token)
        valkey.start()
        await until(lambda: not files_with(valkey.folder, [session.id.encode()]), seconds=20)


@pytest.mark.parametrize("setting", ["maxmemory", "min-replicas-to-write"])
@pytest.mark.parametrize("meanwhile", [True, False], ids=["erased-meanwhile", "erased-before"])
async def test_redis_rewrites_its_file_after_refusing_writes(
    config: MakeConfig, start_valkey: StartValkey, setting: str, meanwhile: bool
) -> None:
    """Rewrite after Redis refused to write, during an erasure or after it."""
    valkey = start_valkey(persistent=True)
    async with open_services(config(redis_url=valkey.url)) as services:
        session = await submitted(services, new_token())
        await until(lambda: files_with(valkey.folder, [session.id.encode()]))
        erasure = services.sessions.erasure
        if not meanwhile:
            await erasure.delete(session.id, session.owner)
        await valkey.command("CONFIG", "SET", setting, "1")
        if meanwhile:
            await erasure.delete(session.id, session.owner)
        assert not (await erasure.retry_forgetting() and await services.bus.rewrite_log())
        await valkey.command("CONFIG", "SET", setting, "0")
        async with asyncio.timeout(10):
            while files_with(valkey.folder, [session.id.encode()]):
                if await erasure.retry_forgetting():
                    await services.bus.rewrite_log()
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_failed_rewrite_is_started_again(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Start a rewrite once more that was killed, or lost with a killed Redis."""
    valkey = start_valkey(persistent=True, options=("--rdb-key-save-delay", "1000000"))
    async with running_web(config(redis_url=valkey.url)) as web:
        session, token = await rendering(web)
        await deleted(web, session, token)

        def kill_rewriter() -> None:
            psutil.Process(valkey.pid).children()[0].kill()

        async def rewrites() -> bool:
            return bool((await web.services.redis.info("persistence"))["aof_rewrite_in_progress"])

        for fail in (kill_rewriter, valkey.kill):
            async with asyncio.timeout(10):
                while not await rewrites():
                    await asyncio.sleep(0.02)
            fail()
        valkey.start()
        assert files_with(valkey.folder, [session.id.encode()])
        await until(lambda: not files_with(valkey.folder, [session.id.encode()]))


async def test_forbidden_rewrite_is_asked_once(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Ask a Redis that refuses the rewrite only once."""
    valkey = start_valkey(persistent=True)
    async with open_services(config(redis_url=valkey.url)) as services:
        admin: Any = services.redis
        await admin.execute_command("ACL SETUSER", "default", "-bgrewriteaof")
        session = await submitted(services, new_token())
        await services.sessions.erasure.delete(session.id, session.owner)
        assert await keys_of(valkey.url, session) == []
        for _ in range(3):
            assert not await services.bus.rewrite_log()
        stats: Any = await services.redis.info("commandstats")
        assert stats["cmdstat_bgrewriteaof"]["rejected_calls"] == 1


async def test_redis_without_a_file_gets_none(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Leave a Redis without an append-only file as it is."""
    valkey = start_valkey()
    async with open_services(config(redis_url=valkey.url)) as services:
        session = await submitted(services, new_token())
        await services.sessions.erasure.delete(session.id, session.owner)
        assert not await services.bus.rewrite_log()
        assert not [path for path in valkey.folder.rglob("*") if "appendonly" in path.name]


async def test_running_rewrite_is_followed_by_another(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Rewrite once more after a rewrite that may have begun before the erasure."""
    valkey = start_valkey(persistent=True, options=("--rdb-key-save-delay", "300"))
    async with open_services(config(redis_url=valkey.url)) as services:
        for n in range(2000):  # 0.6 s of rewriting
            await services.redis.set(f"other:{n}", 1)
        admin: Any = services.redis
        await admin.execute_command("BGREWRITEAOF")
        [rewriting] = psutil.Process(valkey.pid).children()
        rewriting.suspend()  # however long the erasure takes, it is over first
        session = await submitted(services, new_token())
        await services.sessions.erasure.delete(session.id, session.owner)
        assert not await services.bus.rewrite_log()
        rewriting.resume()
        async with asyncio.timeout(30):
            while not await services.bus.rewrite_log():
                await asyncio.sleep(0.1)
        await until(lambda: not files_with(valkey.folder, [session.id.encode()]))
