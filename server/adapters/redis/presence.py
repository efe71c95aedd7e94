"""The web processes that live now, each with its open connections, over all machines.

One sorted set, a member for each process, written every few seconds and read by the
operator's page. A process that was killed is forgotten when the next one writes.
"""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec
from redis.asyncio import Redis

from server.adapters.redis.breaker import Breaker
from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.pools import shared_pool

PRESENCE_SECONDS: Final = 10
"""Time after which a process that has written nothing is not counted."""

CALL_SECONDS: Final = 0.3
"""Bound on each call."""

# By Redis's own clock: those of the machines may differ.
_NOTE_SCRIPT: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[3])
"""
_READ_SCRIPT: Final = """
return {tonumber(redis.call('TIME')[1]), redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}
"""


class WebPresence(msgspec.Struct, frozen=True):
    """A web process's note of itself. ``operators``: open pages of operators."""

    version: str
    sockets: dict[str, int]
    operators: int


_decode: Final = msgspec.json.Decoder(WebPresence).decode


class Presence:
    """The set of web processes. Losing Redis loses what other processes say.

    State: what this process has said, which its next word replaces.
    """

    def __init__(self, redis: Redis, *, key_prefix: str) -> None:
        self._redis = redis
        self._key = f"{key_prefix}webs"
        self._breaker = Breaker(CALL_SECONDS, on_silence=shared_pool(redis).give_up, part="presence")
        self._note = redis.register_script(_NOTE_SCRIPT)
        self._read = redis.register_script(_READ_SCRIPT)
        self._said: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<Presence {self._key}>"

    async def note(self, process: str, presence: WebPresence) -> bool:
        """Say what this process has open; return False if Redis is unavailable."""
        said = b"%s %s" % (process.encode(), msgspec.json.encode(presence))
        try:
            async with self._breaker.call():
                await self._note(keys=[self._key], args=[self._said.get(process, b""), said, PRESENCE_SECONDS])
        except UNAVAILABLE:
            return False
        self._said[process] = said
        return True

    async def drop(self, process: str) -> None:
        """Say that this process ends, if Redis is available."""
        with contextlib.suppress(*UNAVAILABLE):
            async with self._breaker.call():
                await self._redis.zrem(self._key, self._said.pop(process, b""))

    async def all(self) -> dict[str, tuple[float, WebPresence]] | None:
        """Return every living process with the seconds since it wrote.

        None: Redis is unavailable.
        """
        try:
            async with self._breaker.call():
                now, found = await self._read(keys=[self._key])
        except UNAVAILABLE:
            return None
        living: dict[str, tuple[float, WebPresence]] = {}
        for said, at in zip(found[::2], found[1::2], strict=True):  # of two of one process the newer comes last
            name, _, text = said.partition(b" ")
            seconds = max(0.0, now - float(at))
            try:
                if seconds <= PRESENCE_SECONDS:
                    living[str(name, "utf-8", "replace")] = (seconds, _decode(text))
            except (msgspec.DecodeError, msgspec.ValidationError):  # of another release
                continue
        return living
