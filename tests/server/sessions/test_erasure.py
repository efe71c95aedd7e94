"""What is left of an erased session: nothing in any byte of the data folder, no key,
and nothing in Redis's own file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from sqlalchemy import insert, literal

from server.adapters.database import tables
from server.adapters.database.tables import database_time
from server.adapters.redis import bus as bus_module
from server.config.settings import Config
from server.domain.session import Session
from server.domain.tokens import new_token, token_hash
from server.reconciler import timing
from server.services import Services, open_services
from testkit.fixtures import StartValkey
from testkit.running import PHOTO, Web, running_web, until
from testkit.values import new_session_id

MakeConfig = Callable[..., Config]
SECRET = "what-only-this-person-has-said"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TRACES_SECONDS", 0.1)


def files_with(folder: Path, needles: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """Where in a folder's files these bytes stand, and which."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes() if path.is_file() else b""
            found += [(path.name, needle) for needle in needles if needle in content]
    return found


def traces_of(session: Session) -> list[bytes]:
    return [session.id.encode(), session.id.replace("-", "").encode(), session.owner.encode(), SECRET.encode()]


async def submitted(services: Services, token: str) -> Session:
    return await services.sessions.submissions.submit(
        owner=token_hash(token), image=PHOTO, garment=None, params={"said": SECRET}, request_id=None
    )


async def deleted(web: Web, session: Session, token: str) -> None:
    answer = await web.client.delete(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
    assert answer.status_code == 200


async def keys_of(redis_url: str, session: Session) -> list[str]:
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        found = [key async for key in client.scan_iter(count=1000) if session.id in key]
        return found + [job for job in await client.zrange("tryon:queue", 0, -1) if session.id in job]


async def test_a_second_after_its_erasure_no_byte_of_sqlite_tells_of_a_session(
    config: MakeConfig, sqlite_url: str
) -> None:
    async with running_web(config()) as web:
        others = [(await web.submit())[0] for _ in range(3)]
        token = new_token()
        session = await submitted(web.services, token)
        await web.complete(await web.begin(session))
        assert {needle for _, needle in files_with(web.config.data_dir, traces_of(session))} >= {SECRET.encode()}
        await deleted(web, session, token)
        await until(lambda: not files_with(web.config.data_dir, traces_of(session)), seconds=5)
        for each in others:
            assert await web.database.reading.get(each.id) is not None


async def test_who_reads_meanwhile_only_delays_that(config: MakeConfig, sqlite_url: str) -> None:
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
        await until(lambda: not files_with(web.config.data_dir, traces_of(session)), seconds=5)


async def test_redis_writes_its_file_anew_after_an_erasure_but_not_all_the_time(
    config: MakeConfig, start_valkey: StartValkey
) -> None:
    valkey = start_valkey(persistent=True)
    async with running_web(config(redis_url=valkey.url)) as web:
        sessions = []
        for _ in range(2):
            token = new_token()
            session = await submitted(web.services, token)
            claim = await web.begin(session)
            await web.services.sessions.claims.report(claim, 0.5, "rendering")
            await until(lambda claim=claim: claim.reports.timer is None)  # type: ignore[misc]
            sessions.append((session, token))
        (first, token), (second, other_token) = sessions
        await until(lambda: files_with(valkey.folder, [first.id.encode()]))
        await deleted(web, first, token)
        await until(lambda: not files_with(valkey.folder, [first.id.encode()]))
        assert files_with(valkey.folder, [second.id.encode()])

        await deleted(web, second, other_token)
        assert await keys_of(valkey.url, second) == []
        for _ in range(3):
            assert not await web.services.bus.rewrite_log(), "a moment ago"
        await web.services.redis.delete(f"{web.config.key_prefix}rewritten")  # a minute later
        await until(lambda: not files_with(valkey.folder, [second.id.encode()]))


async def test_what_redis_could_not_forget_while_it_was_away_it_forgets_when_it_is_back(
    config: MakeConfig, start_valkey: StartValkey
) -> None:
    valkey = start_valkey(persistent=True)
    async with running_web(config(redis_url=valkey.url)) as web:
        token = new_token()
        session = await submitted(web.services, token)
        claim = await web.begin(session)
        await web.services.sessions.claims.report(claim, 0.5, "rendering")
        await until(lambda: claim.reports.timer is None)
        valkey.kill()
        await deleted(web, session, token)
        assert files_with(valkey.folder, [session.id.encode()])
        valkey.start()
        assert await keys_of(valkey.url, session)
        async with asyncio.timeout(10):
            while await keys_of(valkey.url, session):
                await asyncio.sleep(0.02)
        await until(lambda: not files_with(valkey.folder, [session.id.encode()]))


async def test_a_redis_that_may_not_rewrite_its_file_is_asked_once(
    config: MakeConfig, start_valkey: StartValkey
) -> None:
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


async def test_a_redis_without_a_file_is_not_given_one(config: MakeConfig, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with open_services(config(redis_url=valkey.url)) as services:
        session = await submitted(services, new_token())
        await services.sessions.erasure.delete(session.id, session.owner)
        assert not await services.bus.rewrite_log()
        assert not [path for path in valkey.folder.rglob("*") if "appendonly" in path.name]


async def test_a_rewrite_that_is_under_way_is_followed_by_another(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have begun before the erasure."""
    valkey = start_valkey(persistent=True, options=("--rdb-key-save-delay", "300"))
    async with open_services(config(redis_url=valkey.url)) as services:
        monkeypatch.setattr(bus_module, "REWRITE_SECONDS", 1)
        for n in range(2000):  # 0.6 s of rewriting
            await services.redis.set(f"other:{n}", 1)
        admin: Any = services.redis
        await admin.execute_command("BGREWRITEAOF")
        session = await submitted(services, new_token())
        await services.sessions.erasure.delete(session.id, session.owner)
        assert not await services.bus.rewrite_log()
        async with asyncio.timeout(10):
            while not await services.bus.rewrite_log():
                await asyncio.sleep(0.1)
        await until(lambda: not files_with(valkey.folder, [session.id.encode()]))


async def test_the_hourly_cleanup_finds_what_a_killed_process_has_left(config: MakeConfig, database_url: str) -> None:
    async with open_services(config(key_prefix="a[b]*:")) as services:
        admin: Any = services.redis
        living = await submitted(services, new_token())
        lost = new_session_id()
        for each in (living.id, lost):
            await services.queue.enqueue(each, 1, 2, score_ms=1)
            await admin.hset(services.bus._progress_key(each), "at", "1")
        elsewhere = {f"arq:job:{new_session_id()}:0:1": "of another installation", "a-b-:progress:x": "hers"}
        await services.redis.mset(elsewhere)
        async with services.database.connections.write() as connection:
            event = {
                "seq": 1, "event": "created", "status": "created", "attempt": 0, "actor": "x", "data": "{}",
            }  # fmt: skip
            await connection.execute(
                insert(tables.events).values(session_id=lost, at=database_time(), from_status=literal(None), **event)
            )
        await services.reconciling.cleanup.sweep()
        keys = " ".join(key.decode() for key in await services.redis.keys("*"))
        assert lost not in keys and all(key in keys for key in elsewhere)
        assert keys.count(living.id) == 3, "two jobs and a last word"
        assert lost not in await services.queue.order(10) and living.id in await services.queue.order(10)
        story = await services.database.reading.with_events(living.id, 0)
        assert story is not None and len(story.events) == 1
        assert await services.database.upkeep.delete_stray_events() == 0
