"""Check before a process starts that Redis accepts it."""

from __future__ import annotations

import ssl
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.adapters.redis.cluster import ClusterRedis
from server.adapters.redis.connect import open_redis
from server.adapters.redis.errors import refused_for_now
from server.adapters.redis.rights import Command, Role, missing_right, needed
from server.adapters.redis.tls import tls_context
from server.config.redis_url import RedisUrl, parse_redis_url
from server.config.settings import Config, ConfigError

NEWS: Final = "TRYON_REDIS_URL"
QUEUE: Final = "TRYON_QUEUE_REDIS_URL"


def check_redis_urls(config: Config) -> None:
    """Raise ConfigError for options that no connection takes; connect to nothing."""
    for setting, address in _addresses(config).items():
        _check_url(setting, address)


async def check_redis(config: Config, role: Role | None = None) -> None:
    """Raise ConfigError if a Redis cannot be reached, or refuses this process.

    A refusal that passes by itself is no reason: Redis loads its data, is busy, or
    cannot write to its disk. ``role``: of the process; None: of any.
    """
    for setting, address in _addresses(config).items():
        rights = []
        if setting == NEWS:
            rights += needed(config.key_prefix, None, role)
        if setting == QUEUE or config.queue_redis == config.redis:
            rights += needed(config.key_prefix, config.queue_name, role)
        await _check(setting, address, rights)


def _addresses(config: Config) -> dict[str, str]:
    """Return each Redis by the setting that names it."""
    addresses = {NEWS: config.redis, QUEUE: config.queue_redis}
    if addresses[NEWS] == addresses[QUEUE]:
        del addresses[QUEUE]
    return addresses


def _check_url(setting: str, address: str) -> None:
    try:
        url = parse_redis_url(address)
        for option, path in url.file_options().items():
            _check_file(setting, option, path)
        tls_context(url)
        open_redis(address)
    except ssl.SSLError as error:
        raise ConfigError(f"{setting}: a file of its TLS options cannot be used: {_one_line(error)}") from None
    except (ValueError, TypeError) as error:
        raise _refusal(setting, error) from None


def _check_file(setting: str, option: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{setting}: {option} cannot be read: {path}: {error.strerror}") from None


async def _check(setting: str, address: str, rights: list[Command]) -> None:
    _check_url(setting, address)
    redis = open_redis(address)
    try:
        await redis.ping()
        missing = await _missing_right(redis, rights)
    except (RedisError, OSError, TypeError, ValueError) as error:  # the last two: an option, a host name
        if refused_for_now(error):
            return
        raise _refusal(setting, error, url=parse_redis_url(address)) from None
    finally:
        await redis.connection_pool.disconnect()
    if missing is not None:
        raise ConfigError(f"{setting}: a right is missing, docs/redis.md has them all: {missing}")


async def _missing_right(redis: Redis, rights: list[Command]) -> str | None:
    """Return Redis's words about a right that is missing; of a cluster, at any master.

    Each node has users of its own. A master that does not answer is left out, as it
    would be by the product; a wrong password at any of them is raised.
    """
    if not isinstance(redis, ClusterRedis):
        return await missing_right(redis, rights)
    for node, master in zip(redis.topology.masters, await redis.masters(), strict=True):
        try:
            missing = await missing_right(master, rights, sharded=True)
        except AuthenticationError:
            raise
        except (RedisConnectionError, RedisTimeoutError, OSError):
            continue
        if missing is not None:
            return f"{missing} at {node[0]}:{node[1]}"
    return None


def _refusal(setting: str, error: Exception, *, url: RedisUrl | None = None) -> ConfigError:
    """Return the error on one line; redis-py puts no password into its text."""
    reason = _one_line(error) or "no answer in time"
    if isinstance(error, TypeError):  # of a connection's constructor
        reason = f"its URL has an option that does not exist, {reason.rpartition(' ')[2]}"
    wants_tls = url is not None and url.encrypted and "CERTIFICATE" not in reason
    hint = "; rediss:// needs one that speaks TLS" if wants_tls else ""
    return ConfigError(f"{setting}: Redis cannot be used: {reason}{hint}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
