"""How the stock arq worker notices a job within milliseconds, and outlives Redis.

arq polls: it reads the queue, starts what it found, sleeps, reads again, and any Redis
error ends it. :class:`DoorbellRedis` is the connection it does that through, and
changes five things without touching arq:

- the read waits until the doorbell rings (a pub/sub channel rung after a job became
  visible), so polling costs nothing;
- a job leaves Redis, with all that names it, by the transaction that takes it. arq
  would leave it in the queue while it runs, where it hides waiting ones behind
  ``queue_read_limit``, and where every worker stumbles over it if this one is killed;
  and its data, with the session's id, would be left by a killed worker for a day;
- while Redis is away, the queue looks empty and every other answer is what harms
  nothing (:data:`NOTHING`);
- it remembers what it offered, so that a job which cannot be started does not make the
  loop spin;
- told to stop, it shows no more jobs at once: arq itself would still take what its last
  look brings.

arq's own redelivery of a lost job is gone with that; it takes minutes, and leases in
the database do it in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from redis.asyncio.client import Pipeline
from redis.exceptions import WatchError

from server.adapters.redis.connect import connection_pool
from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.queue import cancel_channel, deserialize, doorbell, serialize

log = logging.getLogger("tryon.worker")

POLL_SECONDS: Final = 0.5
"""The queue is read at least so often: what covers a doorbell that nobody heard, and a
Redis that came back.
"""

RECONNECT_SECONDS: Final = 0.25
LISTEN_SECONDS: Final = 30.0
SOCKET_SECONDS: Final = 1.0

NOTHING: Final[dict[str, Any]] = {
    "ZRANGE": [],  # the queue looks empty
    "ZCARD": 0,
    "INFO": {},
    "DBSIZE": 0,
    "DEL": 0,
}
"""What a command is said to have answered while Redis is away; None where it isn't
listed.
"""

LOCALLY: Final[dict[str, Any]] = {
    "WATCH": True,
    "EXISTS": 0,
    "ZSCORE": 1.0,
    "PSETEX": True,
    "INCRBY": 1,
    "EXPIRE": True,
}
"""What arq asks about each job and is told without asking Redis: nobody runs it, it
waits, its time has come; it is marked as running; this is its first try. Claims in the
database are what counts. Its data came when it was taken.
"""

_ASK: Final = object()
"""In place of an answer: Redis is to give it."""


class DoorbellRedis(ArqRedis):
    """What arq reads its queue through. Making one does no I/O.

    ``rung`` to start: p50 1-2 ms on one machine (``benchmarks/``). Idle: two commands a
    second.
    """

    def __init__(self, redis_url: str, queue_name: str, key_prefix: str) -> None:
        super().__init__(
            connection_pool(redis_url, socket_seconds=SOCKET_SECONDS),
            job_serializer=serialize,
            job_deserializer=deserialize,
            default_queue_name=queue_name,
        )
        self.queue_name = queue_name
        self._channel = doorbell(key_prefix)
        self._cancel_channel = cancel_channel(key_prefix)
        self.on_cancel: Callable[[str], None] | None = None
        """Called with the id of every session whose claim no longer counts, whoever
        holds it.
        """
        self._listener: asyncio.Task[None] | None = None
        self._listening = False
        self._rung = asyncio.Event()
        self._read_at_once = True
        self._was_empty = False
        self._offered: list[bytes] = []
        self.taken: dict[str, bytes | None] = {}
        """The data of the jobs that this worker runs: a Redis that came back may offer
        one of them again.
        """
        self._away = False
        self._stopping = False

    def __repr__(self) -> str:
        state = "away" if self._away else "listening" if self._listening else "polling"
        return f"<DoorbellRedis {self.queue_name} {state}>"

    async def zrangebyscore(self, name: Any, min: Any, max: Any, *args: Any, **options: Any) -> Any:
        """The jobs that may start now, when there are some, or none after
        :data:`POLL_SECONDS`.
        """
        if name != self.queue_name:
            return await super().zrangebyscore(name, min, max, *args, **options)
        jobs = await self._startable(name, options["num"])
        return [] if self._stopping else jobs

    async def _startable(self, name: Any, limit: int) -> list[bytes]:
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="doorbell")
        heard = self._read_at_once or await self._ring(POLL_SECONDS)
        self._rung.clear()  # before reading: a job that comes after the read rings again
        jobs: list[bytes] = await self.zrange(name, 0, limit - 1)
        if jobs and self._was_empty and not heard:
            self._suspect()
        self._was_empty = not jobs
        self._read_at_once = bool(jobs) and jobs != self._offered
        self._offered = jobs
        return jobs

    def take_no_more(self) -> None:
        """The worker stops: a look at the queue that is under way ends now, and finds
        nothing.
        """
        self._stopping = True
        self._rung.set()

    async def _ring(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True

    async def _listen(self) -> None:
        while True:
            try:
                async with self.pubsub() as bell:
                    await bell.subscribe(self._channel, self._cancel_channel)
                    while True:
                        # The confirmation of a subscription counts as a ring: something
                        # may have been missed before it.
                        if message := await bell.get_message(timeout=LISTEN_SECONDS):
                            self._listening = True
                            self._heard(message)
            except UNAVAILABLE as error:
                self._note_away(error)
            self._listening = False
            await asyncio.sleep(RECONNECT_SECONDS)

    def _heard(self, message: dict[str, Any]) -> None:
        cancelled = message["type"] == "message" and message["channel"] == self._cancel_channel.encode()
        if not cancelled:
            self._rung.set()
        elif self.on_cancel is not None:
            self.on_cancel(message["data"].decode())

    def _suspect(self) -> None:
        """A job was there and nobody rang: the subscription may be deaf, so make a new
        one.
        """
        if self._listening and self._listener is not None:
            self._listening = False
            self._listener.cancel()
            self._listener = None

    async def hang_up(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None

    async def close(self, close_connection_pool: bool | None = None) -> None:
        """By this name, which redis-py 5 calls deprecated, arq closes it."""
        await self.hang_up()
        await self.aclose(close_connection_pool)

    @property
    def given_up(self) -> bool:
        """A worker that stops asks an absent Redis nothing more: each answer would take
        two time-outs.
        """
        return self._away and self._stopping

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.given_up:
            return NOTHING.get(args[0])
        try:
            answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except UNAVAILABLE as error:
            self._note_away(error)
            return NOTHING.get(args[0])
        self._note_back()
        return answer

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> TakingPipeline:
        return TakingPipeline(self, transaction, shard_hint)

    def _note_away(self, error: BaseException) -> None:
        if not self._away:
            self._away = True
            log.warning("Redis is away: %s", error or type(error).__name__)

    def _note_back(self) -> None:
        if self._away:
            self._away = False
            log.info("Redis is back")


class TakingPipeline(Pipeline):
    """A pipeline of arq's worker: taking a job is one transaction, and no error of
    Redis comes out of it.

    Before a job arq watches the mark of a running one, looks whether it is there and
    whether the job still waits, sets it, and reads the job: five round trips. Here who
    removes the job from the queue has it and its data, and the rest is answered at once
    (:data:`LOCALLY`). No command of it needs memory, so a Redis that is full still
    gives jobs away.
    """

    def __init__(self, redis: DoorbellRedis, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, transaction, shard_hint)
        self._redis = redis
        self._takes: str | None = None
        self._plan: list[tuple[str, Any]] = []
        """Each command, and what it is answered without asking Redis, or :data:`_ASK`.
        """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        name = args[0]
        if name == "WATCH":
            self._takes = args[1].removeprefix(in_progress_key_prefix)
        if self._takes is not None and not self.explicit_transaction:
            return _answered(LOCALLY[name])
        answer = LOCALLY.get(name, _ASK)
        if name == "GET":  # of a job that was taken
            answer = self._redis.taken.get(args[1].removeprefix(job_key_prefix))
        elif name == "DEL":  # the mark too: the job is over
            for key in args[1:]:
                self._redis.taken.pop(key.removeprefix(in_progress_key_prefix), None)
        self._plan.append((name, answer))
        return super().execute_command(*args, **options) if answer is _ASK else self

    async def execute(self, raise_on_error: bool = True) -> Any:
        if self._takes is not None:
            await self._take(self._takes)
            return [True]
        answers = iter(await self._answers([name for name, answer in self._plan if answer is _ASK]))
        return [next(answers) if answer is _ASK else answer for _, answer in self._plan]

    async def _take(self, job_id: str) -> None:
        """Raises WatchError unless it was there to take and does not run here."""
        key = job_key_prefix + job_id
        commands = (("ZREM", self._redis.queue_name, job_id), ("GET", key), ("DEL", key))
        for command in commands:
            super().execute_command(*command)
        removed, job, _ = await self._answers([command[0] for command in commands])
        if not removed or job_id in self._redis.taken:
            raise WatchError("some worker has it, or Redis is away")
        self._redis.taken[job_id] = job

    async def _answers(self, names: list[str]) -> list[Any]:
        if not self._redis.given_up:
            try:
                answers: list[Any] = await super().execute()
                return answers
            except UNAVAILABLE as error:
                self._redis._note_away(error)
        return [NOTHING.get(name) for name in names]


async def _answered(value: Any) -> Any:
    return value
