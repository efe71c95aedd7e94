"""Frames at a steady rate to many clients, each with a session of its own.

The sessions are rows made by one statement; a session's events are published on its
channel as the product does. Whatever the processes do without news is measured first
and subtracted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.installation import running_installation
from benchmarks.scaling.crowd import Crowd, running_crowd
from server.domain.bus_message import EVENT, bus_message
from server.services import Services
from testkit.cluster import Cluster
from testkit.costs import cpu_seconds, pss_bytes
from testkit.crowds import add_sessions, numbered_id
from testkit.profiles import BENCHMARK, QUIET
from tryon.protocol import states
from tryon.protocol.frames import EventFrame, encode
from tryon.protocol.paths import SESSIONS
from tryon.protocol.states import Status

TICK_SECONDS: Final = 0.01
"""Frames of this time are published together."""

SETTLE_SECONDS: Final = 1.0
"""Pause after a connect, in which what it left to do is done."""

SETTINGS: Final = BENCHMARK | QUIET


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds of a while: of all web processes, and of Valkey."""

    web: float
    valkey: float


@dataclass(frozen=True, slots=True)
class Pushed:
    """Costs of a steady stream of frames, less the costs of idle connections."""

    frame_us: float
    """CPU of the web processes for each frame, in microseconds."""
    valkey_us: float
    """CPU of Valkey for each frame."""
    ping_us: float
    """CPU of the web processes for each ping of a client without news."""


class Stream:
    """Clients, and the events that are published to them one after the other."""

    def __init__(self, cluster: Cluster, services: Services, crowds: Sequence[Crowd], ping_seconds: float) -> None:
        self._ping_seconds = ping_seconds
        self._cluster = cluster
        self.services = services
        self._crowds = crowds
        self._sessions: list[str] = []
        self._next = 0
        self._seqs: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Stream clients={self.clients}>"

    @property
    def clients(self) -> int:
        return len(self._sessions)

    async def grow(self, clients: int) -> None:
        """Connect clients to sessions of their own, until there are ``clients``."""
        more = [numbered_id(n) for n in range(self.clients + 1, clients + 1)]
        expires = int(self.services.database.clock.now()) + self.services.config.ticket_seconds
        paths = [f"{SESSIONS}/{id}/ws?ticket={self.services.signer.ticket(id, expires=expires)}" for id in more]
        connected = await asyncio.gather(
            *(crowd.connect(paths[n :: len(self._crowds)]) for n, crowd in enumerate(self._crowds))
        )
        if sum(connected) != clients:
            raise SystemExit(f"{sum(connected)} of {clients} clients are connected")
        self._sessions += more
        await asyncio.sleep(SETTLE_SECONDS)

    async def measured(self, rate: float) -> Pushed:
        """Publish at this rate for the time between two pings; return what it cost.

        Raises SystemExit if a frame is lost.
        """
        seconds = self._ping_seconds
        calm = await self.costs_of(asyncio.sleep(seconds))
        before = await self._heard()
        busy = await self.costs_of(self._publish(rate, seconds))
        frames = await self._all_heard(before + int(rate * seconds)) - before
        if frames != int(rate * seconds):
            raise SystemExit(f"{frames} of {int(rate * seconds)} frames have come")
        return Pushed(
            (busy.web - calm.web) / frames * 1e6,
            (busy.valkey - calm.valkey) / frames * 1e6,
            calm.web / self.clients * 1e6,
        )

    async def costs_of(self, work: Awaitable[object]) -> Costs:
        """Return what the processes take while this is done."""
        pids = [web.pid for web in self._cluster.webs]
        web, valkey = sum(map(cpu_seconds, pids)), cpu_seconds(self._cluster.valkey.pid)
        await work
        return Costs(sum(map(cpu_seconds, pids)) - web, cpu_seconds(self._cluster.valkey.pid) - valkey)

    async def _publish(self, rate: float, seconds: float) -> None:
        """Publish the next event of one session after the other."""
        started, published, total = time.perf_counter(), 0, int(rate * seconds)
        while published < total:
            due = min(total, int((time.perf_counter() - started + TICK_SECONDS) * rate))
            async with self.services.redis.pipeline(transaction=False) as pipe:
                for _ in range(due - published):
                    session_id = self._sessions[self._next % self.clients]
                    self._next += 1
                    pipe.publish(self.services.bus.channel(session_id), self._event(session_id))
                await pipe.execute()
            published = due
            await asyncio.sleep(max(0.0, started + published / rate - time.perf_counter()))

    def _event(self, session_id: str) -> bytes:
        seq = self._seqs[session_id] = self._seqs.get(session_id, 1) + 1
        frame = EventFrame(
            session_id=session_id,
            seq=seq,
            event=states.Event.PROCESSING,
            from_=Status.CREATED,
            status=Status.PROCESSING,
            terminal=False,
            at="2026-01-01T00:00:00.000Z",
            data={"attempt": 1},
        )
        return bus_message(EVENT, seq, 1, encode(frame))

    async def _heard(self) -> int:
        return sum(await asyncio.gather(*(crowd.heard() for crowd in self._crowds)))

    async def _all_heard(self, expected: int) -> int:
        """Return how many events have come, when all have or nothing comes any more."""
        heard = await self._heard()
        while heard < expected:
            await asyncio.sleep(0.2)
            if (now := await self._heard()) == heard:
                break
            heard = now
        return heard

    def memory_bytes(self) -> int:
        """Return the memory of all web processes."""
        return sum(pss_bytes(web.pid) for web in self._cluster.webs)


@contextlib.asynccontextmanager
async def running_stream(
    *, processes: int, sessions: int, ping_seconds: float, crowds: int = 1
) -> AsyncIterator[Stream]:
    """Make this many sessions in ``processing``, which no client follows yet."""
    async with contextlib.AsyncExitStack() as stack:
        settings = SETTINGS | {"ping_seconds": ping_seconds}
        cluster = await stack.enter_async_context(running_installation(webs=processes, **settings))
        services = await stack.enter_async_context(cluster.services())
        await add_sessions(services.database, {Status.PROCESSING: sessions})
        followers = [await stack.enter_async_context(running_crowd(cluster.port)) for _ in range(crowds)]
        yield Stream(cluster, services, followers, ping_seconds)
