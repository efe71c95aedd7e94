"""Checks before a process starts: of the data folder, database, Redis and bucket.

Once it runs, a process goes on while one of them is unavailable. At its start
an address or a password that is wrong is more likely than an outage, and a person looks
at the terminal: so the process ends, with one line. A process that ``tryon up`` keeps
running leaves this out: the stack has checked before it started, and a later
failure is an outage.
"""

from __future__ import annotations

import os

from server.adapters.database.start_check import check_database
from server.adapters.files.opening import check_storage
from server.adapters.redis.rights import Role
from server.adapters.redis.start_check import check_redis, check_redis_urls
from server.config.settings import Config, ConfigError
from server.config.sources import make_data_dir


async def check_start(config: Config, role: Role | None = None) -> None:
    """Raise ConfigError, one line, if this process could not do its work.

    ``role``: of the process, which decides the rights that it needs of Redis.
    """
    check_redis_urls(config)
    check_folder(config)
    await check_database(config.database)
    await check_redis(config, role)
    await check_storage(config)


def check_folder(config: Config) -> None:
    """Make the folder of data; raise ConfigError if it cannot be written to."""
    make_data_dir(config.data_dir)
    if not os.access(config.data_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"TRYON_DATA_DIR: cannot write to {config.data_dir}")
