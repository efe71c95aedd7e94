"""The question to Redis before a process starts: whether it lets this process in."""

from __future__ import annotations

from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from server.adapters.redis.connect import open_redis
from server.config.settings import ConfigError


async def check_redis(redis_url: str) -> None:
    """Raise ConfigError if Redis cannot be reached, or refuses the credentials.

    One that is loading its data, or that cannot write it to its disk, will do.
    """
    redis = open_redis(redis_url)
    try:
        await redis.ping()
    except (BusyLoadingError, ResponseError):
        return
    except (RedisError, OSError) as error:
        hint = "; rediss:// needs one that speaks TLS" if redis_url.startswith("rediss:") else ""
        raise ConfigError(f"TRYON_REDIS_URL: Redis cannot be used: {_reason(error)}{hint}") from None
    finally:
        await redis.connection_pool.disconnect()


def _reason(error: Exception) -> str:
    """Return the error's text, on one line; redis-py puts no password into it."""
    return " ".join(str(error).split()).rstrip(".") or "no answer in time"
