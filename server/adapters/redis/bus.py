"""The publishing side of Redis pub/sub: events go out after their commit.

Guarantee: at most once, in order per session and publisher, to processes that are
subscribed at that moment, and nothing more. The database is the truth; a client that
may have missed an event reads it there (:mod:`server.web.push.hub`).
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Collection
from typing import Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from server.adapters.redis.breaker import Breaker
from server.adapters.redis.cluster import ClusterRedis
from server.adapters.redis.errors import UNAVAILABLE, refused_for_good
from server.adapters.redis.names import Names
from server.adapters.redis.pools import shared_pool
from server.domain.session import Progress, valid_session_id
from server.telemetry import metrics

log = logging.getLogger("tryon.bus")

PROGRESS_SECONDS: Final = 900
"""Life of a session's last progress, for late joiners; longer than any deadline is
useless.
"""

# Stores the newest progress only: (attempt, seq) must not go back, so a fenced-out
# worker changes nothing. Stores nothing of an erased session: its worker may not know
# of the erasure yet. Then publishes.
_PROGRESS_SCRIPT: Final = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local at = tonumber(ARGV[1]) * 10000000000 + tonumber(ARGV[2])
local held = redis.call('HGET', KEYS[1], 'at')
if held and tonumber(held) > at then return 0 end
redis.call('HSET', KEYS[1], 'at', string.format('%.0f', at), 'progress', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', KEYS[2], ARGV[4])
return 1
"""

_SHARDED_PROGRESS: Final = _PROGRESS_SCRIPT.replace("'PUBLISH'", "'SPUBLISH'")

# An erasure during the rewrite has deleted the mark: then it stays deleted.
_REWRITTEN_SCRIPT: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""

REWRITE_SECONDS: Final = 45
"""Minimum time between two rewrites of the append-only file."""

CLEAN_SECONDS: Final = 3600
"""Time after which the file is rewritten in any case.

A process that is killed while Redis is unavailable takes the knowledge of its erasures
with it.
"""

_REWRITING: Final = b"rewriting"
_CLEAN: Final = b"clean"

ERASED_SECONDS: Final = 120
"""Time for which Redis refuses the progress of an erased session, remembered as a hash.
"""

_decode_progress: Final = msgspec.json.Decoder(Progress).decode

PUBLISH_SECONDS: Final = 0.3
"""Bound on one publish.

The reconciler publishes many in turn, each within 2 s of its time.
"""


def glob_escape(text: str) -> str:
    """Escape a text for Redis's ``MATCH``."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


class RedisBus:
    """The publishing side.

    Losing Redis loses events on their way, never state: every method reports it by its
    return value, at the latest after :data:`PUBLISH_SECONDS`, and at once while Redis
    is known to be silent.
    """

    def __init__(self, redis: Redis, *, key_prefix: str) -> None:
        self._redis = redis
        self._prefix = key_prefix
        self._sharded = isinstance(redis, ClusterRedis)
        self._names = Names(key_prefix, sharded=self._sharded)
        self._breaker = Breaker(PUBLISH_SECONDS, on_silence=shared_pool(redis).give_up, part="bus")
        self._progress_script = redis.register_script(_SHARDED_PROGRESS if self._sharded else _PROGRESS_SCRIPT)
        self._rewritten_script = redis.register_script(_REWRITTEN_SCRIPT)
        self._file_key = f"{key_prefix}file"
        """State of the append-only file: absent, being rewritten, or clean.

        A full Redis accepts deletes alone, so an erasure deletes it.
        """
        self._may_rewrite = not self._sharded
        """Whether to ask for rewrites; a cluster holds news alone and needs no file."""

    def __repr__(self) -> str:
        return f"<RedisBus {self._prefix} {self._breaker!r}>"

    def channel(self, session_id: str) -> str:
        """Return the name of a session's channel."""
        return self._names.channel(session_id)

    def owner_channel(self, owner: str) -> str:
        """Return the name of the channel on which an owner's new sessions are named.

        ``owner``: the hash of the owner's credential.
        """
        return self._names.owner(owner)

    async def publish(self, session_id: str, message: bytes) -> bool:
        """Publish one bus message on the session's channel.

        Return False while Redis is unavailable; the sweep delivers the event then.
        """
        try:
            async with self._breaker.call():
                await self._redis.publish(self.channel(session_id), message)
        except UNAVAILABLE:
            metrics.publish_failures.inc()
            return False
        return True

    async def announce(self, owner: str, session_id: str) -> bool:
        """Publish the id of a new session on its owner's channel.

        As :meth:`publish` otherwise; the sweep finds the session if this is lost.
        """
        try:
            async with self._breaker.call():
                await self._redis.publish(self.owner_channel(owner), session_id.encode())
        except UNAVAILABLE:
            metrics.publish_failures.inc()
            return False
        return True

    async def publish_to_each(self, session_ids: Collection[str], message: bytes) -> bool:
        """Publish the same bus message on the channels of many sessions.

        In one round trip: a slow Redis costs a thousand of them no more than one. As
        :meth:`publish` otherwise.
        """
        try:
            async with self._breaker.call(), self._redis.pipeline(transaction=False) as pipe:
                for session_id in session_ids:
                    pipe.publish(self.channel(session_id), message)
                await pipe.execute()
        except UNAVAILABLE:
            metrics.publish_failures.inc(len(session_ids))
            return False
        return True

    async def publish_progress(self, session_id: str, progress: Progress, message: bytes) -> bool:
        """Store the progress as the latest and publish it.

        Return False, and do neither, if a newer (attempt, seq) is stored, the
        session is erased or Redis is unavailable.
        """
        try:
            async with self._breaker.call():
                stored = await self._progress_script(
                    keys=[self._names.progress(session_id), self.channel(session_id), self._names.erased(session_id)],
                    args=[progress.attempt, progress.seq, msgspec.json.encode(progress), message, PROGRESS_SECONDS],
                )
        except UNAVAILABLE:
            return False
        return bool(stored)

    async def last_progress(self, session_ids: Collection[str]) -> dict[str, Progress]:
        """Return the latest progress of each session, in one round trip.

        Empty while Redis is unavailable.
        """
        if not session_ids:
            return {}
        found: dict[str, Progress] = {}
        try:
            async with self._breaker.call(), self._redis.pipeline(transaction=False) as pipe:
                for session_id in session_ids:
                    pipe.hget(self._names.progress(session_id), "progress")
                for session_id, held in zip(session_ids, await pipe.execute(), strict=True):
                    if held:
                        found[session_id] = _decode_progress(held)
        except (*UNAVAILABLE, msgspec.MsgspecError):
            return {}
        return found

    async def forget(self, session_ids: Collection[str]) -> bool:
        """Delete what Redis holds of erased sessions, and refuse more for a while.

        Return False while Redis is unavailable or full; a full one has deleted what it
        held but may accept progress again when it has room. No transaction: a full
        Redis refuses one as a whole if it adds anything.
        """
        if not session_ids:
            return True
        try:
            async with self._breaker.call(), self._redis.pipeline(transaction=False) as pipe:
                for session_id in session_ids:
                    pipe.set(self._names.erased(session_id), 1, ex=ERASED_SECONDS)
                progress = [self._names.progress(session_id) for session_id in session_ids]
                if self._sharded:  # each key has a slot of its own
                    for key in progress:
                        pipe.delete(key)
                else:
                    pipe.delete(*progress, self._file_key)
                await pipe.execute()
        except UNAVAILABLE:
            return False
        return True

    async def remembered(self) -> set[str]:
        """Return the ids of all sessions whose progress Redis holds.

        Scans every key. Empty while Redis is unavailable.
        """
        prefix = self._names.progress_prefix()
        found: set[str] = set()
        with contextlib.suppress(*UNAVAILABLE):
            async for key in self._redis.scan_iter(match=f"{glob_escape(prefix)}*", count=1000):
                found.add(self._names.session_of(str(key, "utf-8", "replace")))
        return {id for id in found if valid_session_id(id)}

    async def rewrite_log(self) -> bool:
        """Start a rewrite of Redis's append-only file if sessions were erased.

        The old file still contains them. To be called again and again: a rewrite that
        failed, or was refused for the moment, is started again. At most once in
        :data:`REWRITE_SECONDS` over all processes. Return whether one was started: a
        Redis without such a file has nothing to rewrite, and one that forbids it for
        good is not asked again.
        """
        if not self._may_rewrite:
            return False
        try:
            async with self._breaker.call():
                return await self._rewrite_if_needed()
        except UNAVAILABLE as error:
            if refused_for_good(error):
                self._may_rewrite = False
                log.info(
                    "Redis forbids rewriting its append-only file; erased data stays there until Redis rewrites it: %s",
                    error,
                )
            return False

    async def _rewrite_if_needed(self) -> bool:
        state = await self._redis.get(self._file_key)
        if state == _CLEAN:
            return False
        now = await self._redis.info("persistence")
        if not now.get("aof_enabled") or now.get("aof_rewrite_in_progress") or now.get("aof_rewrite_scheduled"):
            return False  # what runs may have begun before the erasure
        # -1: none since Redis was started, so the one that was under way then is lost.
        done = now.get("aof_last_bgrewrite_status") == "ok" and now.get("aof_last_rewrite_time_sec", -1) >= 0
        if state == _REWRITING and done:
            await self._rewritten_script(keys=[self._file_key], args=[_REWRITING, _CLEAN, CLEAN_SECONDS])
            return False
        if not await self._redis.set(f"{self._prefix}rewritten", 1, nx=True, ex=REWRITE_SECONDS):
            return False
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(self._file_key, _REWRITING)
                pipe.execute_command("BGREWRITEAOF")
                await pipe.execute()
        except ResponseError:
            await self._redis.delete(self._file_key)  # another one was started meanwhile
            raise
        return True

    async def probe(self, channel: str, payload: bytes) -> int | None:
        """Publish a probe and return the number of subscribers that received it.

        None: Redis is unavailable. Asks also while Redis is thought to be silent: an
        answer ends that.
        """
        try:
            async with self._breaker.call(anyway=True):
                return int(await self._redis.publish(channel, payload))
        except UNAVAILABLE:
            return None
