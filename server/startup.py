"""Checks before a process starts: of the folder for data, the database and Redis.

Once it runs, a process goes on while the database or Redis is unavailable. At its start
an address or a password that is wrong is more likely than an outage, and a person looks
at the terminal: so the process ends, with one line. A process that ``tryon up`` keeps
running leaves this out: the stack has checked before it started, and a later
failure is an outage.
"""

from __future__ import annotations

import os
from pathlib import Path

from server.adapters.database.start_check import check_database
from server.adapters.redis.start_check import check_redis
from server.config.settings import Config, ConfigError


async def check_start(config: Config) -> None:
    """Raise ConfigError, one line, if this process could not do its work."""
    redis_url = config.redis
    check_folder(config.data_dir)
    await check_database(config.database)
    await check_redis(redis_url)


def check_folder(data_dir: Path) -> None:
    """Make the folder of data; raise ConfigError if it cannot be written to."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"TRYON_DATA_DIR: cannot use {data_dir}: {error.strerror}") from None
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"TRYON_DATA_DIR: cannot write to {data_dir}")
