"""PostgreSQL behind a pooler that gives each transaction another connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from server.adapters.database import migrations
from server.config.settings import Config
from testkit.pgbouncer import PgBouncer, find_pgbouncer
from testkit.plugin import missing
from testkit.running import new_session
from testkit.servers import PostgresServer
from tests.server.adapters.database.steps import brought_to, opened
from tryon.protocol.states import Status


@pytest.fixture
def pooler(postgres: PostgresServer) -> Iterator[PgBouncer]:
    program = find_pgbouncer()
    if program is None:
        missing("pgbouncer")
    pooler = PgBouncer(program, postgres.port)
    yield pooler
    pooler.close()


def through(pooler: PgBouncer, url: str, query: str = "?pgbouncer=true") -> str:
    return make_url(url).set(port=pooler.port).render_as_string(hide_password=False) + query


async def test_database_works_behind_transaction_pooler(pooler: PgBouncer, postgres_url: str) -> None:
    """Many transactions of two processes share three connections, and none fails."""
    url = through(pooler, postgres_url)
    async with opened(url) as one, opened(url) as other:

        async def live(number: int) -> None:
            database = (one, other)[number % 2]
            session = await brought_to(database, Status.COMPLETED)
            found = await database.reader.get(session.id)
            assert found is not None and found.status is Status.COMPLETED

        await asyncio.gather(*(live(number) for number in range(30)))
        await one.clock.synchronize()
        assert await other.feed.cursor() is not None


async def test_named_statements_fail_behind_transaction_pooler(pooler: PgBouncer, postgres_url: str) -> None:
    """Without the parameter statements get lost: the test above can fail."""
    async with opened(through(pooler, postgres_url, "")) as database:

        async def insert_often() -> None:
            for _ in range(20):
                await database.writer.insert(new_session())

        results = await asyncio.gather(*(insert_often() for _ in range(10)), return_exceptions=True)
    assert any("prepared statement" in f"{error} {error.__cause__}" for error in results if error is not None), results


async def test_migrations_run_behind_transaction_pooler(
    pooler: PgBouncer, empty_postgres_url: str, tmp_path: Path
) -> None:
    """Their lock lasts for the transaction, and not for the connection."""
    config = Config(data_dir=tmp_path, database_url=through(pooler, empty_postgres_url))
    await asyncio.gather(*(asyncio.to_thread(migrations.migrate, config) for _ in range(2)))
    async with opened(config.database) as database:
        await database.writer.insert(new_session())
