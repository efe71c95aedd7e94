"""The stock arq worker behind the doorbell, in this process, on a real Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
from arq import Worker, func
from redis.asyncio import Redis

from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue, deserialize, serialize
from server.system.clock import SystemClock
from testkit.fixtures import StartValkey
from testkit.proxy import running_proxy
from testkit.servers import ValkeyServer
from tests.worker.conftest import until
from worker import pickup
from worker.pickup import DoorbellRedis


class Bench:
    """A queue, a worker on it, and the sessions that ran.

    Jobs whose id is in ``hold`` run until they are released.
    """

    def __init__(self, redis_url: str, *, jobs: int, worker_url: str | None = None) -> None:
        self.queue = ArqQueue(redis_url, "jobs", "t:", clock=SystemClock())
        self.pool = DoorbellRedis(worker_url or redis_url, "jobs", "t:")
        self.redis = Redis.from_url(redis_url)
        self.ran: asyncio.Queue[str] = asyncio.Queue()
        self.hold: dict[str, asyncio.Event] = {}
        self.worker = Worker(
            [func(self.run, name="run_session")],
            queue_name="jobs",
            redis_pool=self.pool,
            handle_signals=False,
            max_jobs=jobs,
            poll_delay=0.002,
            keep_result=0,
            retry_jobs=False,
            health_check_interval=1,
            job_serializer=serialize,
            job_deserializer=deserialize,
        )

    async def run(self, ctx: dict[Any, Any], session_id: str) -> None:
        self.ran.put_nowait(session_id)
        if session_id in self.hold:
            await self.hold[session_id].wait()

    async def put(self, session_id: str, *, ahead_ms: int = 0) -> None:
        """Enqueue a job; a busy machine may need several tries."""
        async with asyncio.timeout(20):
            while True:
                try:
                    await self.queue.enqueue(session_id, 0, 1, score_ms=int(time.time() * 1000) + ahead_ms)
                except QueueUnavailable:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def next(self) -> str:
        return await asyncio.wait_for(self.ran.get(), 10)

    async def calls(self, command: str) -> int:
        """Return how often the server has seen this command."""
        stats: Any = await self.redis.info("commandstats")
        return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    async def idle(self) -> bool:
        return all(task.done() for task in self.worker.tasks.values())

    async def kept_of(self, session_id: str) -> list[bytes]:
        """Return the keys that name this session."""
        return [key async for key in self.redis.scan_iter(f"*{session_id}*")]

    async def listens(self) -> bool:
        return bool((await self.redis.pubsub_numsub("t:doorbell"))[0][1])


@asynccontextmanager
async def working(redis_url: str, *, jobs: int = 10, worker_url: str | None = None) -> AsyncIterator[Bench]:
    """Run a worker; ``worker_url`` is its own way to the same Redis."""
    bench = Bench(redis_url, jobs=jobs, worker_url=worker_url)
    running = asyncio.create_task(bench.worker.async_run())
    try:
        async with aclosing(bench.redis):
            await until(bench.listens)
            yield bench
            assert not running.done(), "the worker died"
            for event in bench.hold.values():
                event.set()
            await until(bench.idle)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        with suppress(asyncio.CancelledError):
            await bench.worker.close()
        await bench.pool.close(close_connection_pool=True)
        await bench.queue.close()


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next poll come after the test: nothing but a ring is heard in time."""
    monkeypatch.setattr(pickup, "POLL_SECONDS", 60.0)


async def test_job_starts_before_next_poll(redis_url: str, no_poll: None) -> None:
    """A job starts when the doorbell rings: in 1.5 ms, on an idle machine."""
    async with working(redis_url) as bench:
        for n in range(20):
            await bench.put(f"s{n}")
            assert await bench.next() == f"s{n}"


async def test_running_job_leaves_no_key(redis_url: str) -> None:
    """Whenever its worker is killed, no key that names the session stays."""
    async with working(redis_url) as bench:
        bench.hold["s1"] = asyncio.Event()
        await bench.put("s1")
        await bench.next()
        assert await bench.queue.depth() == 0
        assert await bench.kept_of("s1") == []

        bench.hold["s1"].set()
        await until(bench.idle)
        assert await bench.kept_of("s1") == []


async def test_running_job_is_not_started_again(redis_url: str) -> None:
    """A Redis that came back with an older state offers a running job once more.

    arq would lose track of it.
    """
    async with working(redis_url) as bench:
        bench.hold["s1"] = asyncio.Event()
        await bench.put("s1")
        await bench.next()
        await bench.put("s1")

        async def taken_out() -> bool:
            return await bench.queue.depth() == 0

        await until(taken_out)
        assert await bench.kept_of("s1") == []
        await bench.put("s2")
        assert await bench.next() == "s2", "not s1"
        bench.hold["s1"].set()
        await until(bench.idle)
        await bench.put("s1")
        assert await bench.next() == "s1", "it is over, so it may come again"


async def test_running_jobs_hide_no_waiting_one(redis_url: str) -> None:
    """More running jobs than arq reads at once do not hide a waiting job."""
    async with working(redis_url, jobs=150) as bench:
        for n in range(120):  # more than arq's queue_read_limit of a small worker
            bench.hold[f"s{n}"] = asyncio.Event()
            await bench.put(f"s{n}")
        for _ in range(120):
            await bench.next()
        async with working(redis_url, jobs=1) as other:
            await bench.put("late")

            async def ran() -> bool:
                return bench.ran.qsize() + other.ran.qsize() == 1

            await until(ran)


async def test_two_workers_run_each_job_once(redis_url: str) -> None:
    """Of two workers on one queue, one takes each job."""
    async with working(redis_url) as one, working(redis_url) as two:
        for n in range(60):
            await one.put(f"s{n}")

        async def all_ran() -> bool:
            return one.ran.qsize() + two.ran.qsize() >= 60

        await until(all_ran)
        ran = [bench.ran.get_nowait() for bench in (one, two) for _ in range(bench.ran.qsize())]
        assert sorted(ran) == sorted(f"s{n}" for n in range(60))


async def test_freed_slot_is_filled_at_once(redis_url: str, no_poll: None) -> None:
    """A full worker starts the next job when one has ended, although nothing rings."""
    async with working(redis_url, jobs=1) as bench:
        bench.hold["s1"] = asyncio.Event()
        await bench.put("s1")
        await bench.put("s2")
        await bench.next()
        assert bench.ran.empty()

        bench.hold["s1"].set()
        assert await bench.next() == "s2"


async def test_full_worker_reads_nothing(redis_url: str) -> None:
    """A worker without a free slot does not read the queue."""
    async with working(redis_url, jobs=1) as bench:
        bench.hold["s1"] = asyncio.Event()
        await bench.put("s1")
        await bench.put("s2")
        await bench.next()
        reads, records = await bench.calls("zrange"), await bench.calls("psetex")

        async def another_health_record() -> bool:  # one a second: life goes on
            return await bench.calls("psetex") > records + 1

        await until(another_health_record)
        assert await bench.calls("zrange") <= reads + 1


async def test_untakable_job_makes_no_busy_loop(start_valkey: StartValkey) -> None:
    """A replica, for example, shows the queue and refuses to change it."""
    async with working(start_valkey().url) as bench:
        await bench.redis.execute_command("ACL", "SETUSER", "default", "-zrem")
        await bench.put("stuck")
        first, began = await bench.calls("zrange"), time.monotonic()

        async def read_on() -> bool:
            return await bench.calls("zrange") >= first + 5

        await until(read_on)
        assert time.monotonic() - began > 0.9  # two at once, then every half second
        await bench.redis.execute_command("ACL", "SETUSER", "default", "+zrem")
        assert await bench.next() == "stuck"


async def test_full_redis_still_gives_jobs(start_valkey: StartValkey) -> None:
    """Taking a job needs no memory in Redis."""
    async with working(start_valkey().url, jobs=1) as bench:
        bench.hold["first"] = asyncio.Event()
        await bench.put("first")
        assert await bench.next() == "first"
        await bench.put("second")
        await bench.redis.config_set("maxmemory", 1)
        bench.hold["first"].set()
        assert await bench.next() == "second"
        assert await bench.kept_of("second") == []


async def test_job_of_fast_clock_starts_at_once(redis_url: str, no_poll: None) -> None:
    """The clock of the machine that enqueued a job does not delay it."""
    async with working(redis_url) as bench:
        for n in range(3):
            await bench.put(f"tomorrow {n}", ahead_ms=90_000_000)
            assert await bench.next() == f"tomorrow {n}"


async def test_dead_subscription_is_replaced(redis_url: str) -> None:
    """A job without a ring makes the worker subscribe anew."""
    async with working(redis_url) as bench:
        clients: Any = await bench.redis.client_list(_type="pubsub")
        deaf = clients[0]["id"]
        # A job without a ring: to the worker the same as a doorbell that it did not
        # hear.
        await bench.redis.set(
            "arq:job:quiet:0:1", serialize({"t": None, "f": "run_session", "a": ["quiet"], "k": {}, "et": 1})
        )
        await bench.redis.zadd("jobs", {"quiet:0:1": 1})
        assert await bench.next() == "quiet"

        async def other_ear() -> bool:
            clients: Any = await bench.redis.client_list(_type="pubsub")
            return [client["id"] for client in clients] not in ([], [deaf])

        await until(other_ear)


async def test_redis_errors_leave_worker_alive(start_valkey: StartValkey) -> None:
    """A Redis that is killed at any step of a job does not end the worker."""
    valkey = start_valkey()
    async with working(valkey.url) as bench:
        for round_ in range(8):  # it strikes at another step each time
            jobs = [f"r{round_}-{n}" for n in range(6)]
            for job in jobs:
                bench.hold[job] = asyncio.Event()
                await bench.put(job)
            if round_ % 2:
                await bench.next()
            kill_and_start(valkey)
            for job in jobs:
                bench.hold[job].set()
        await until(bench.listens)
        while not bench.ran.empty():
            bench.ran.get_nowait()

        await bench.put("after")

        while await bench.next() != "after":
            pass
        assert bench.worker.job_counter <= 1  # no slot was lost


def kill_and_start(valkey: ValkeyServer) -> None:
    valkey.kill()
    valkey.start()


async def test_refused_command_does_not_end_worker(redis_url: str) -> None:
    """A command that Redis refuses counts as an outage."""
    async with working(redis_url) as bench:
        await bench.redis.set("jobs", "not a sorted set")  # WRONGTYPE for every look at the queue

        async def noticed() -> bool:
            return "unavailable" in repr(bench.pool)

        await until(noticed)
        await bench.redis.delete("jobs")
        await bench.put("s1")
        assert await bench.next() == "s1"


@pytest.mark.parametrize("payload", [b"\x80\x04.", b"[]", b'{"f":"other","a":[],"k":{},"t":null,"et":1}'])
async def test_foreign_job_is_dropped(redis_url: str, payload: bytes) -> None:
    """A job that is none of ours is dropped, and the next one runs."""
    async with working(redis_url) as bench:
        await bench.redis.set("arq:job:odd", payload)
        await bench.redis.zadd("jobs", {"odd": 1})

        async def dropped() -> bool:
            return bench.worker.jobs_failed == 1

        await until(dropped)
        assert bench.ran.empty()
        assert await bench.kept_of("odd") == []


async def test_silent_doorbell_is_replaced(start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hear cancels again after a connection died without a word, though no job came."""
    monkeypatch.setattr(pickup, "LISTEN_SECONDS", 0.2)
    valkey = start_valkey(tcp=True)
    heard = asyncio.Event()
    async with (
        running_proxy(valkey.port) as proxy,
        working(valkey.tcp_url, worker_url=f"redis://127.0.0.1:{proxy.port}/0") as bench,
    ):
        bench.pool.on_cancel = lambda session_id: heard.set()
        assert proxy.black_hole(new=False) >= 1

        async def subscribed_again() -> bool:
            return bool((await bench.redis.pubsub_numsub("t:cancel"))[0][1] == 2)  # Redis knows nothing of the death

        await until(subscribed_again)
        async with asyncio.timeout(10):
            while not heard.is_set():  # one may come while a busy machine subscribes once more
                await bench.queue.ring_cancel("s1")
                await asyncio.sleep(0.05)
        await bench.put("s1")
        assert await bench.next() == "s1"


async def test_strange_ring_does_not_end_the_listening(redis_url: str) -> None:
    """Go on after a message that no process of ours can have sent."""
    async with working(redis_url) as bench:
        heard: asyncio.Queue[str] = asyncio.Queue()
        bench.pool.on_cancel = heard.put_nowait
        await bench.redis.publish("t:cancel", b"\xff\xfe")
        await bench.queue.ring_cancel("s1")
        async with asyncio.timeout(10):
            while await heard.get() != "s1":
                pass
