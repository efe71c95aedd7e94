"""The stock arq worker's connection to its queue.

Jobs start within milliseconds, and an outage of Redis ends nothing.

arq polls: it reads the queue, starts the jobs that it found, sleeps, reads again, and
any Redis error ends it. :class:`DoorbellRedis` is the connection that it uses for that,
and changes five things without touching arq:

- a read waits until the doorbell rings (a pub/sub channel rung after a job became
  visible), so polling costs nothing;
- a job leaves Redis, with every key that names it, by the transaction that takes it.
  arq would leave it in the queue while it runs, where it hides waiting jobs behind
  ``queue_read_limit``, and where every worker stumbles over it if this one is killed;
  and its data, with the session's id, would stay for a day after a worker was killed;
- while Redis is unavailable, the queue looks empty and every other answer is harmless
  (:data:`NOTHING`);
- it remembers the jobs that it offered, so that a job which cannot be started does not
  make the loop spin;
- when the worker is stopping, it shows no more jobs at once: arq itself would still
  start the jobs of its last look.

arq's own redelivery of a lost job is thereby gone; it takes minutes, and leases in the
database do it in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from redis.asyncio.client import Pipeline, PubSub
from redis.exceptions import WatchError

from server.adapters.redis.connect import connection_pool
from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.queue import cancel_channel, crash_channel, deserialize, doorbell, serialize

log = logging.getLogger("tryon.worker")

POLL_SECONDS: Final = 0.5
"""Longest time between two reads of the queue: it covers a doorbell that was not heard,
and a Redis that came back.
"""
RECONNECT_SECONDS: Final = 0.25
"""Pause before the doorbell is subscribed to again."""
LISTEN_SECONDS: Final = 2.0
"""Silence of the doorbell after which Redis is asked whether the connection is alive.

One that says nothing for as long again is dead, and replaced.
"""
SOCKET_SECONDS: Final = 1.0
"""Time for one read or write on a connection to Redis."""
STOP_SECONDS: Final = 0.5
"""Time for one command of a worker that is stopping, with all its time-outs."""

NOTHING: Final[dict[str, Any]] = {
    "ZRANGE": [],  # the queue looks empty
    "ZCARD": 0,
    "INFO": {},
    "DBSIZE": 0,
    "DEL": 0,
}
"""The answers to commands while Redis is unavailable; None if a command is not listed.
"""

LOCALLY: Final[dict[str, Any]] = {
    "WATCH": True,
    "EXISTS": 0,
    "ZSCORE": 1.0,
    "PSETEX": True,
    "INCRBY": 1,
    "EXPIRE": True,
}
"""The answers to arq's questions about each job, given without asking Redis.

The job does not run elsewhere, it waits, its time has come; it is marked as running;
this is its first try. Only claims in the database count, and its data came when it was
taken.
"""

_ASK: Final = object()
"""A placeholder for an answer that Redis gives."""


class Outage:
    """Whether Redis answers, and whether the worker is stopping anyway."""

    __slots__ = ("stopping", "unavailable")

    def __init__(self) -> None:
        self.unavailable = False
        self.stopping = False

    def __repr__(self) -> str:
        return f"<Outage unavailable={self.unavailable} stopping={self.stopping}>"

    @property
    def final(self) -> bool:
        """Whether to ask no more: each answer would take two time-outs."""
        return self.unavailable and self.stopping

    def bound(self, *, always: bool = False) -> asyncio.Timeout:
        """Bound a command, if the worker is stopping or ``always``."""
        return asyncio.timeout(STOP_SECONDS if always or self.stopping else None)

    def begin(self, error: BaseException) -> None:
        """Note that Redis did not answer."""
        if not self.unavailable:
            self.unavailable = True
            log.warning("Redis unavailable: %s", str(error) or type(error).__name__)

    def end(self) -> None:
        """Note that Redis has answered."""
        if self.unavailable:
            self.unavailable = False
            log.info("Redis available again")


class DoorbellRedis(ArqRedis):
    """The connection that arq reads its queue through. Making one does no I/O.

    From the ring to the start of the job: p50 1-2 ms on one machine (``benchmarks/``).
    Idle: two commands a second, and one every other second to the doorbell.
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
        """Called with the id of every session whose claim no longer counts, on any
        worker.
        """
        self._crash_channel = crash_channel(key_prefix)
        self.on_crash: Callable[[str], None] | None = None
        """Called with the id of every session whose worker is to crash; None outside of
        the demo mode, where it is not listened for.
        """
        self._listener: asyncio.Task[None] | None = None
        self._listening = False
        self._rung = asyncio.Event()
        self._read_at_once = True
        self._was_empty = False
        self._offered: list[bytes] = []
        self._taken: dict[str, bytes | None] = {}
        """The data of the jobs that this worker runs: a Redis that came back may offer
        one of them again.
        """
        self._outage = Outage()

    def __repr__(self) -> str:
        state = "unavailable" if self._outage.unavailable else "listening" if self._listening else "polling"
        return f"<DoorbellRedis {self.queue_name} {state}>"

    async def zrangebyscore(self, name: Any, min: Any, max: Any, *args: Any, **options: Any) -> Any:
        """Return the jobs that may start now, or none after :data:`POLL_SECONDS`."""
        if name != self.queue_name:
            return await super().zrangebyscore(name, min, max, *args, **options)
        jobs = await self._startable(name, options["num"])
        return [] if self._outage.stopping else jobs

    async def _startable(self, name: Any, limit: int) -> list[bytes]:
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="doorbell")
        heard = self._read_at_once or await self._ring(POLL_SECONDS)
        self._rung.clear()  # before reading: a job that comes after the read rings again
        jobs: list[bytes] = await self.zrange(name, 0, limit - 1)
        if jobs and self._was_empty and not heard:
            self._replace_subscription()
        self._was_empty = not jobs
        self._read_at_once = bool(jobs) and jobs != self._offered
        self._offered = jobs
        return jobs

    def take_no_more(self) -> None:
        """End a look at the queue that is under way, with no job: the worker stops."""
        self._outage.stopping = True
        self._rung.set()

    async def _ring(self, seconds: float) -> bool:
        """Wait for the doorbell; return whether it rang in time."""
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
                    crash = [] if self.on_crash is None else [self._crash_channel]
                    await bell.subscribe(self._channel, self._cancel_channel, *crash)
                    await self._listen_to(bell)
            except UNAVAILABLE as error:
                self._outage.begin(error)
            except Exception:  # of any kind: an end of this task would end all retries
                log.exception("Listening to the doorbell failed and will be tried again")
            self._listening = False
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen_to(self, bell: PubSub) -> None:
        """Hear messages until the connection is lost, or found dead."""
        asked = False
        while True:
            if message := await bell.get_message(timeout=LISTEN_SECONDS):
                self._listening, asked = True, False
                self._heard(message)
            elif asked:
                raise TimeoutError("the doorbell's connection is silent")
            else:
                asked = True
                await bell.ping()

    def _heard(self, message: dict[str, Any]) -> None:
        """Take a message, a subscription's confirmation or an answer.

        The confirmation counts as a ring: a job may have come before it.
        """
        if message["type"] == "pong":
            return
        calls = {self._cancel_channel.encode(): self.on_cancel, self._crash_channel.encode(): self.on_crash}
        if message["type"] != "message" or message["channel"] not in calls:
            self._rung.set()
        elif (call := calls[message["channel"]]) is not None:
            call(message["data"].decode(errors="replace"))

    def _replace_subscription(self) -> None:
        """Subscribe anew: a job came without a ring, so it may be dead."""
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
        """Close it; arq calls this name, which redis-py 5 calls deprecated."""
        await self.hang_up()
        await self.aclose(close_connection_pool)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Ask Redis; answer from :data:`NOTHING` while it is unavailable."""
        if self._outage.final:
            return NOTHING.get(args[0])
        try:
            async with self._outage.bound():
                answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except UNAVAILABLE as error:
            self._outage.begin(error)
            return NOTHING.get(args[0])
        self._outage.end()
        return answer

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> TakingPipeline:
        """Return a pipeline that takes jobs."""
        return TakingPipeline(
            self, transaction, shard_hint, queue_name=self.queue_name, taken=self._taken, outage=self._outage
        )


class TakingPipeline(Pipeline):
    """A pipeline of arq's worker that takes a job in one transaction.

    No Redis error comes out of it. Before a job arq watches the mark of a running one,
    looks whether it is there and whether the job still waits, sets it, and reads the
    job: five round trips. Here the worker that removes the job from the queue has it
    and its data, and the other questions are answered at once (:data:`LOCALLY`). No
    command of it needs memory, so a Redis that is full still gives jobs away.
    """

    def __init__(
        self,
        redis: ArqRedis,
        transaction: bool,
        shard_hint: str | None,
        *,
        queue_name: str,
        taken: dict[str, bytes | None],
        outage: Outage,
    ) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, transaction, shard_hint)
        self._queue_name = queue_name
        self._taken = taken
        self._outage = outage
        self._takes: str | None = None
        """The job that this pipeline takes, once arq has watched its mark."""
        self._plan: list[tuple[str, Any]] = []
        """Each command, with its answer if Redis need not be asked, or :data:`_ASK`."""

    def __repr__(self) -> str:
        return f"<TakingPipeline takes={self._takes} commands={len(self._plan)}>"

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queue a command for Redis, or answer it here."""
        name = args[0]
        if name == "WATCH":
            self._takes = args[1].removeprefix(in_progress_key_prefix)
        if self._takes is not None and not self.explicit_transaction:
            return _answered(LOCALLY[name])
        answer = LOCALLY.get(name, _ASK)
        if name == "GET":  # of a job that was taken
            answer = self._taken.get(args[1].removeprefix(job_key_prefix))
        elif name == "DEL":  # the mark too: the job is over
            for key in args[1:]:
                self._taken.pop(key.removeprefix(in_progress_key_prefix), None)
        self._plan.append((name, answer))
        return super().execute_command(*args, **options) if answer is _ASK else self

    async def execute(self, raise_on_error: bool = True) -> Any:
        """Take the job, or run the queued commands.

        Raises WatchError as :meth:`_take` does.
        """
        if self._takes is not None:
            await self._take(self._takes)
            return [True]
        asked = [name for name, answer in self._plan if answer is _ASK]
        # The end of a job, whose keys are gone since it was taken. It does not wait for
        # a silent Redis: arq ends in an error when it must stop meanwhile.
        answers = iter(
            [NOTHING.get(name) for name in asked] if self._outage.unavailable else await self._answers(asked)
        )
        return [next(answers) if answer is _ASK else answer for _, answer in self._plan]

    async def _take(self, job_id: str) -> None:
        """Take a job.

        Raises WatchError if it is not in the queue or already runs here.
        """
        key = job_key_prefix + job_id
        commands = (("ZREM", self._queue_name, job_id), ("GET", key), ("DEL", key))
        for command in commands:
            super().execute_command(*command)
        removed, job, _ = await self._answers([command[0] for command in commands])
        if not removed or job_id in self._taken:
            raise WatchError("a worker has it, or Redis is unavailable")
        self._taken[job_id] = job

    async def _answers(self, names: list[str]) -> list[Any]:
        if not self._outage.final:
            try:
                async with self._outage.bound(always=self._takes is None):
                    answers: list[Any] = await super().execute()
                return answers
            except UNAVAILABLE as error:
                self._outage.begin(error)
        return [NOTHING.get(name) for name in names]


async def _answered(value: Any) -> Any:
    return value
