"""The entry of Alembic, which applies the versions of the schema.

It runs on the connection that ``tryon migrate`` hands over, or opens one of its own to
``TRYON_DATABASE_URL``.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection, text

from alembic import context
from server.adapters.database.engine import UNLIMIT_TRANSACTION, create_engine
from server.adapters.database.tables import metadata
from server.config.settings import Config


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(UNLIMIT_TRANSACTION))
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
    with context.begin_transaction():
        context.run_migrations()


async def run_on_own_connection() -> None:
    engine = create_engine(Config.load().database)
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    context.configure(url=Config.load().database, target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif (handed_over := context.config.attributes.get("connection")) is not None:
    run(handed_over)
else:
    asyncio.run(run_on_own_connection())
