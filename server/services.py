"""Builds every part once, hands them out, closes them in order.

The only place that constructs adapters.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from redis.asyncio import Redis

from server.adapters.database.database import Database, open_database
from server.adapters.files.local import LocalFiles
from server.adapters.files.port import Files
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.connect import open_redis
from server.adapters.redis.limits import RedisLimiter
from server.adapters.redis.queue import ArqQueue
from server.config.settings import Config
from server.domain.tokens import Signer
from server.reconciler.reconciler import Reconciler
from server.sessions.sessions import Sessions
from server.system.clock import Clock, SystemClock
from server.system.randomness import Randomness, SystemRandomness


@dataclass(frozen=True, slots=True)
class Services:
    """What a web or worker process is made of."""

    config: Config
    clock: Clock
    randomness: Randomness
    database: Database
    files: Files
    redis: Redis
    bus: RedisBus
    queue: ArqQueue
    limiter: RedisLimiter
    signer: Signer
    sessions: Sessions
    reconciler: Reconciler


@contextlib.asynccontextmanager
async def open_services(config: Config) -> AsyncIterator[Services]:
    """Everything that a process needs; nothing connects before it is used, so a server
    may be away at the start.
    """
    config.data_dir.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        clock = SystemClock()
        database = open_database(config.database, clock=clock)
        stack.push_async_callback(database.close)
        redis = open_redis(config.redis)
        stack.push_async_callback(redis.connection_pool.disconnect)
        queue = ArqQueue(config.redis, config.queue_name, config.key_prefix, clock=clock)
        stack.push_async_callback(queue.close)
        files = LocalFiles(config.uploads_dir)
        bus = RedisBus(redis, key_prefix=config.key_prefix)
        signer = Signer(config.signing_keys())
        sessions = Sessions(config=config, database=database, files=files, bus=bus, queue=queue, signer=signer)
        yield Services(
            config=config,
            clock=clock,
            randomness=SystemRandomness(),
            database=database,
            files=files,
            redis=redis,
            bus=bus,
            queue=queue,
            limiter=RedisLimiter(redis, config.upload_rate, key_prefix=config.key_prefix, clock=clock),
            signer=signer,
            sessions=sessions,
            reconciler=Reconciler(
                config=config, database=database, files=files, bus=bus, queue=queue, sessions=sessions
            ),
        )
