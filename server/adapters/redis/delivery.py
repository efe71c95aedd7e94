"""Send one message through Redis pub/sub, to check that it delivers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.adapters.redis.cluster import ClusterRedis, slot_of
from server.adapters.redis.connect import open_redis
from server.adapters.redis.subscribing import make_subscriber
from server.config.redis_url import Form, parse_redis_url
from server.system.randomness import SystemRandomness

DELIVERY_SECONDS: Final = 2.0
"""Time for a published message to come back."""

CHANNELS_TRIED: Final = 1000
"""Names of channels among which one for each master of a cluster is found."""

_FORMS: Final = {Form.SENTINEL: " (the master, by Sentinels)", Form.CLUSTER: " (a cluster)"}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of sending one message, of a cluster one through each master.

    ``seconds``: from publishing to receiving, the longest of them; None: one did not
    come back in time. ``server``: name and version. ``form``: how it was found.
    ``eviction``: the ``maxmemory-policy`` that evicts, of any master; else that of the
    first; empty if it does not tell. ``keeps_file``: whether a master of a cluster
    keeps an append-only file, which the product rewrites on single servers alone.
    """

    seconds: float | None
    server: str
    form: str
    eviction: str
    keeps_file: bool = False


async def try_delivery(redis_url: str, key_prefix: str) -> Delivery:
    """Publish a message to itself. Raises one of ``errors.UNAVAILABLE``."""
    redis = open_redis(redis_url)
    channel = f"{key_prefix}doctor:{secrets.token_hex(8)}"
    try:
        if isinstance(redis, ClusterRedis):
            infos = [await master.info() for master in await redis.masters()]
            seconds = await _through_each_master(redis, redis_url, channel)
        else:
            infos = [await redis.info()]
            seconds = await _through(redis, channel)
        policies = [str(info.get("maxmemory_policy", "")) for info in infos]
        return Delivery(
            seconds,
            _server(infos[0]),
            _FORMS.get(parse_redis_url(redis_url).form, ""),
            next((each for each in policies if each not in ("", "noeviction")), policies[0]),
            isinstance(redis, ClusterRedis) and any(info.get("aof_enabled") for info in infos),
        )
    finally:
        await redis.connection_pool.disconnect()


def _server(info: Mapping[str, Any]) -> str:
    name = "Valkey" if "valkey_version" in info else "Redis"
    return f"{name} {info.get('valkey_version') or info.get('redis_version', '')}".rstrip()


async def _through(redis: Redis, channel: str) -> float | None:
    async with redis.pubsub() as subscriber:
        await subscriber.subscribe(channel)
        begin = time.monotonic()
        await redis.publish(channel, b"probe")
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                async for message in subscriber.listen():
                    if message["type"] == "message":
                        return time.monotonic() - begin
        except (TimeoutError, RedisTimeoutError):
            pass
    return None


async def _through_each_master(redis: ClusterRedis, redis_url: str, prefix: str) -> float | None:
    """Send a message by sharded pub/sub through each master, as the news go."""
    channels: dict[Any, str] = {}
    for number in range(CHANNELS_TRIED):
        name = f"{prefix}:{number}"
        channels.setdefault(redis.topology.owner(slot_of(name)), name)
    arrivals: dict[bytes, asyncio.Future[float]] = {
        name.encode(): asyncio.get_running_loop().create_future() for name in channels.values()
    }

    def arrived(channel: bytes, payload: bytes) -> None:
        if not arrivals[channel].done():
            arrivals[channel].set_result(time.monotonic())

    subscriber = make_subscriber(redis_url, on_message=arrived, on_restored=lambda: None, randomness=SystemRandomness())
    async with subscriber:
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                await asyncio.gather(*map(subscriber.subscribe, arrivals))
                begin = time.monotonic()
                await asyncio.gather(*(redis.publish(name, b"probe") for name in channels.values()))
                return max(await asyncio.gather(*arrivals.values())) - begin
        except TimeoutError:
            return None
