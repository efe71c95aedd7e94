"""Check before a process starts that Redis accepts it."""

from __future__ import annotations

from redis.exceptions import RedisError

from server.adapters.redis.connect import open_redis
from server.adapters.redis.errors import refused_for_now
from server.config.settings import ConfigError


def check_redis_url(redis_url: str) -> None:
    """Raise ConfigError for options that no connection takes; connect to nothing."""
    try:
        open_redis(redis_url)
    except ValueError as error:
        raise _refusal(error) from None


async def check_redis(redis_url: str) -> None:
    """Raise ConfigError if Redis cannot be reached, or refuses this process.

    A refusal that passes by itself is no reason: Redis loads its data, is busy, or
    cannot write to its disk.
    """
    check_redis_url(redis_url)
    redis = open_redis(redis_url)
    try:
        await redis.ping()
    except (RedisError, OSError, TypeError, ValueError) as error:  # the last two: an option, a host name
        if not refused_for_now(error):
            raise _refusal(error, tls=redis_url.startswith("rediss:")) from None
    finally:
        await redis.connection_pool.disconnect()


def _refusal(error: Exception, *, tls: bool = False) -> ConfigError:
    """Return the error on one line; redis-py puts no password into its text."""
    reason = " ".join(str(error).split()).rstrip(".") or "no answer in time"
    if isinstance(error, TypeError):  # of a connection's constructor
        reason = f"its URL has an option that does not exist, {reason.rpartition(' ')[2]}"
    hint = "; rediss:// needs one that speaks TLS" if tls else ""
    return ConfigError(f"TRYON_REDIS_URL: Redis cannot be used: {reason}{hint}")
