"""The arq queue: carries session ids to the workers, and a doorbell that wakes them.

Guarantee: none for a single job. It may be lost (Redis comes back empty, a worker dies
between taking the job and claiming the session) or come twice; the claim decides what a
job is worth, and the reconciler enqueues sessions again that wait too long. While Redis
is unavailable every method raises
:class:`~server.adapters.redis.errors.QueueUnavailable`, at the latest after
:data:`QUEUE_SECONDS`, and at once while it is known to be silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any, Final

import msgspec
from arq.connections import ArqRedis, RedisSettings
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix, retry_key_prefix
from arq.jobs import serialize_job
from redis.asyncio.connection import parse_url

from server.adapters.redis.breaker import Breaker
from server.adapters.redis.connect import CALL_SECONDS, connection_pool
from server.adapters.redis.errors import UNAVAILABLE, QueueUnavailable
from server.adapters.redis.tls import tls_defaults
from server.config.redis_url import Form, parse_redis_url
from server.system.clock import Clock

FUNCTION: Final = "run_session"
"""Name of the task that runs a session. Its only argument is the session's id."""

CLEANUP_FUNCTION: Final = "run_cleanup"
"""Name of the task that stops or deletes work upstream; its argument is a cleanup's id.
"""

CLEANUP_PREFIX: Final = "cleanup-"
"""Beginning of the id of a cleanup's job, which is no session's."""

QUEUE_SECONDS: Final = 0.5
"""Bound on each call of the queue: an upload makes several and has 2 s."""

JOB_SECONDS: Final = 86400
"""Life of a waiting job, longer than any deadline; later the reconciler enqueues again.
"""

DEPTH_SECONDS: Final = 1.0
"""Life of a known queue depth for the decision that the queue is far from full."""

WORKER_SECONDS: Final = 10
"""Time without a sign of life after which a worker is not counted."""

RUNS: Final = 50
"""Number of remembered run times per processor."""

# One command instead of a transaction of five: that takes a web process a fifth of a
# millisecond less. Rung last: a worker that hears it finds the job.
_ADD_SCRIPT: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
redis.call('PUBLISH', KEYS[3], '1')
return redis.call('ZCARD', KEYS[2])
"""

# Redis's own clock: those of the machines may differ.
_NOTE_SCRIPT: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
_SEEN_SCRIPT: Final = """
local now = tonumber(redis.call('TIME')[1])
return {now, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}
"""


def arq_settings(redis_url: str) -> RedisSettings:
    """Return arq's own settings of Redis, which only ``arq --check`` reads.

    arq knows no TLS options beside Sentinels.
    """
    url = parse_redis_url(redis_url)
    options: dict[str, Any] = dict(parse_url(url.first()))
    host: Any = list(url.nodes) if url.form is Form.SENTINEL else options.get("host", "localhost")
    return RedisSettings(
        host=host,
        port=options.get("port", 6379),
        unix_socket_path=options.get("path"),
        database=options.get("db", 0),
        username=options.get("username"),
        password=options.get("password"),
        ssl=url.encrypted,
        sentinel=url.form is Form.SENTINEL,
        sentinel_master=url.master,
        **(tls_defaults(url) | {name: value for name, value in options.items() if name in _TLS_OPTIONS}),
    )


_TLS_OPTIONS: Final = ("ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname")


def serialize(job: dict[str, Any]) -> bytes:
    """Return arq's job as JSON.

    Not arq's default, pickle: write access to Redis must not run code here. The result
    of a job that arq itself ends (Redis lost its data) is an exception; its text is
    kept.
    """
    return msgspec.json.encode(job, enc_hook=str)


def deserialize(data: bytes) -> dict[str, Any]:
    """Return arq's job.

    Raises ValueError on anything but a JSON object; arq then drops the job.
    """
    return msgspec.json.decode(data, type=dict[str, Any])


def _job(function: str, argument: str, at: float) -> bytes:
    """Return a job with one argument, enqueued at this time (Unix seconds)."""
    return serialize_job(function, (argument,), {}, None, int(at * 1000), serializer=serialize)


def job_id(session_id: str, attempt: int, n: int) -> str:
    """Return the id of a session's nth job within an attempt."""
    return f"{session_id}:{attempt}:{n}"


def doorbell(key_prefix: str) -> str:
    """Return the channel that is rung after a job has become visible."""
    return f"{key_prefix}doorbell"


def cancel_channel(key_prefix: str) -> str:
    """Return the channel that carries ids of sessions whose claims no longer count."""
    return f"{key_prefix}cancel"


def crash_channel(key_prefix: str) -> str:
    """Return the channel that carries ids of sessions whose workers are to crash."""
    return f"{key_prefix}crash"


class _KnownDepth:
    """The depth of the queue as it was last seen."""

    __slots__ = ("_at", "_depth")

    def __init__(self) -> None:
        self._depth, self._at = 0, float("-inf")

    def note(self, depth: int) -> int:
        self._depth, self._at = depth, asyncio.get_running_loop().time()
        return depth

    def surely_below(self, limit: int) -> bool:
        return self._depth < limit and asyncio.get_running_loop().time() - self._at < DEPTH_SECONDS


class ArqQueue:
    """The queue as web, worker and reconciler use it."""

    def __init__(self, redis_url: str, queue_name: str, key_prefix: str, *, clock: Clock) -> None:
        self._clock = clock
        self._name = queue_name
        self._doorbell = doorbell(key_prefix)
        self._cancel = cancel_channel(key_prefix)
        self._crash = crash_channel(key_prefix)
        self._workers = f"{key_prefix}workers"
        self._memory = f"{key_prefix}memory"
        self._runs = f"{key_prefix}runs:"
        self._pool = connection_pool(redis_url, socket_seconds=CALL_SECONDS)
        self._redis = ArqRedis(
            self._pool, job_serializer=serialize, job_deserializer=deserialize, default_queue_name=queue_name
        )
        self._breaker = Breaker(QUEUE_SECONDS, on_silence=self._pool.give_up, part="queue")
        self._depth = _KnownDepth()
        self._add = self._redis.register_script(_ADD_SCRIPT)
        self._note = self._redis.register_script(_NOTE_SCRIPT)
        self._seen = self._redis.register_script(_SEEN_SCRIPT)

    def __repr__(self) -> str:
        return f"<ArqQueue {self._name}>"

    async def enqueue(self, session_id: str, attempt: int, n: int, *, score_ms: int) -> int:
        """Add the job and ring, in one round trip; return the number of waiting jobs.

        The same id again only changes its place. ``score_ms``: the session's creation
        in Unix milliseconds; lower runs first. It is stored in seconds: arq takes it
        for a time in milliseconds before which no job may start, by the worker's own
        clock, which may be behind.
        """
        key = job_id(session_id, attempt, n)
        job = _job(FUNCTION, session_id, self._clock.wall())
        async with self._bounded():
            waiting = await self._add(
                keys=[job_key_prefix + key, self._name, self._doorbell], args=[job, JOB_SECONDS, score_ms / 1000, key]
            )
        return self._depth.note(int(waiting))

    async def enqueue_cleanup(self, cleanup_id: str, n: int) -> None:
        """Add the nth job of a cleanup behind the sessions that wait now, and ring."""
        key = f"{CLEANUP_PREFIX}{cleanup_id}:{n}"
        job = _job(CLEANUP_FUNCTION, cleanup_id, self._clock.wall())
        async with self._bounded():
            await self._add(
                keys=[job_key_prefix + key, self._name, self._doorbell],
                args=[job, JOB_SECONDS, self._clock.wall(), key],
            )

    async def contains(self, session_id: str, attempt: int, n: int) -> bool:
        """Return whether the job waits.

        A running job does not: a worker takes it out of the queue before it begins.
        """
        key = job_id(session_id, attempt, n)
        async with self._bounded(), self._redis.pipeline(transaction=False) as pipe:
            pipe.zscore(self._name, key)
            pipe.exists(job_key_prefix + key)
            score, job = await pipe.execute()
        return score is not None and bool(job)

    async def remembers(self) -> bool:
        """Return whether Redis still has the data of the last call.

        False: it came back empty, or is new. The question is a write, so a read-only
        Redis counts as unavailable.
        """
        async with self._bounded(), self._redis.pipeline(transaction=True) as pipe:
            pipe.exists(self._memory)
            pipe.set(self._memory, 1)
            known, _ = await pipe.execute()
        return bool(known)

    async def depth(self) -> int:
        """Return the number of waiting jobs."""
        async with self._bounded():
            return self._depth.note(int(await self._redis.zcard(self._name)))

    def surely_below(self, limit: int) -> bool:
        """Return whether the queue was far from full a moment ago.

        Far: below half of ``limit``. False also without a depth from the last
        :data:`DEPTH_SECONDS`: then ask.
        """
        return self._depth.surely_below(limit // 2)

    async def order(self, limit: int) -> list[str]:
        """Return the waiting sessions in the order in which they will be taken.

        Each once, out of the first ``limit`` jobs.
        """
        async with self._bounded():
            ids = await self._redis.zrange(self._name, 0, limit - 1)
        jobs = [str(each, "ascii", "replace") for each in ids]
        sessions = (each.partition(":")[0] for each in jobs if not each.startswith(CLEANUP_PREFIX))
        return list(dict.fromkeys(sessions))  # the first job counts

    async def note_run(self, processor: str, seconds: float) -> None:
        """Remember a run time, among the last :data:`RUNS` of its processor."""
        key = f"{self._runs}{processor}"
        async with self._bounded(), self._redis.pipeline(transaction=False) as pipe:
            pipe.lpush(key, f"{seconds:.3f}")
            pipe.ltrim(key, 0, RUNS - 1)
            pipe.expire(key, JOB_SECONDS)
            await pipe.execute()

    async def run_seconds(self, processor: str) -> float | None:
        """Return the median of the processor's recent run times; None without any."""
        async with self._bounded():
            runs: Any = await self._redis.lrange(f"{self._runs}{processor}", 0, -1)  # type: ignore[misc]
        return median(float(run) for run in runs) if runs else None

    async def ring_cancel(self, *session_ids: str, crash: bool = False) -> None:
        """Notify workers that the claims of these sessions no longer count.

        The worker that holds one reads the database. One round trip for all. ``crash``:
        ask it to crash instead, which it does in demo mode only.
        """
        channel = self._crash if crash else self._cancel
        async with self._bounded(), self._redis.pipeline(transaction=False) as pipe:
            for session_id in session_ids:
                pipe.publish(channel, session_id)
            await pipe.execute()

    async def forget(self, session_id: str, attempt: int, n: int) -> None:
        """Remove every trace of the session's jobs up to this attempt and this n."""
        await self.forget_all([(session_id, attempt, n)])

    async def forget_all(self, sessions: Iterable[tuple[str, int, int]]) -> None:
        """Remove every trace of the jobs of these (session, attempt, n); see forget."""
        jobs = [job_id(each, a, i) for each, attempt, n in sessions for a in range(attempt + 1) for i in range(n + 1)]
        for ids in _chunks(jobs, 200):
            keys = [prefix + each for each in ids for prefix in _KEY_PREFIXES]
            async with self._bounded(), self._redis.pipeline(transaction=False) as pipe:
                pipe.zrem(self._name, *ids)
                pipe.unlink(*keys)
                await pipe.execute()

    async def forget_waiting(self, session_ids: Collection[str]) -> None:
        """Remove the waiting jobs of these sessions, whatever their attempt and n."""
        async with self._bounded():
            waiting = [str(each, "ascii", "replace") for each in await self._redis.zrange(self._name, 0, -1)]
        for ids in _chunks([each for each in waiting if each.partition(":")[0] in session_ids], 200):
            keys = [prefix + each for each in ids for prefix in _KEY_PREFIXES]
            async with self._bounded(), self._redis.pipeline(transaction=False) as pipe:
                pipe.zrem(self._name, *ids)
                pipe.unlink(*keys)
                await pipe.execute()

    async def note_worker(self, worker_id: str) -> None:
        """Record that this worker lives.

        To be repeated well within :data:`WORKER_SECONDS`.
        """
        async with self._bounded():
            await self._note(keys=[self._workers], args=[worker_id, WORKER_SECONDS])

    async def drop_worker(self, worker_id: str) -> None:
        """Record that this worker ends."""
        async with self._bounded():
            await self._redis.zrem(self._workers, worker_id)

    async def workers(self) -> dict[str, float]:
        """Return the workers seen in the last :data:`WORKER_SECONDS`.

        With the seconds since each was seen last.
        """
        async with self._bounded():
            now, seen = await self._seen(keys=[self._workers])
        ages = {
            str(worker, "utf-8", "replace"): now - float(at) for worker, at in zip(seen[::2], seen[1::2], strict=True)
        }
        return {worker: max(0.0, seconds) for worker, seconds in ages.items() if seconds < WORKER_SECONDS}

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with self._breaker.call():
                yield
        except UNAVAILABLE as error:
            raise QueueUnavailable(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
        await self._pool.disconnect()


_KEY_PREFIXES: Final = (job_key_prefix, in_progress_key_prefix, retry_key_prefix, result_key_prefix)


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    return (items[at : at + size] for at in range(0, len(items), size))
