"""Reads everything that the operator's page shows, for all operators of a process.

Nothing here grows with the number of connected clients or of stored sessions: the list
has :data:`~server.domain.operator.MAX_SESSIONS` rows, and what ended lately is counted
from a bounded sample every few seconds. A part that cannot be read is a sentence in
``troubles``, and the others are shown all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from prometheus_client.samples import Sample

from server import __version__
from server.adapters.database.overview import ENDED_ROWS, Ended
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.presence import WebPresence
from server.domain.operator import (
    LATELY_SECONDS,
    MAX_ACTIONS,
    MAX_SESSIONS,
    Action,
    ChoreLease,
    Place,
    SessionRow,
    State,
    Step,
    WebState,
)
from server.domain.session import Session, session_id_of, timestamp, valid_session_id
from server.services import Services
from server.telemetry import metrics
from server.web.ops import rows
from server.web.push.hub import Hub
from tryon.protocol.errors import NotFound
from tryon.protocol.states import Status

LATELY_PERIOD_SECONDS: Final = 5.0
"""Time between two counts of what ended lately."""

_NO_REDIS: Final = "Redis is unavailable: places, workers and other web processes are not known."
_NO_DELIVERY: Final = "Redis delivers no messages: clients are served from the database."


@dataclass(slots=True)
class _Lately:
    """The sessions that ended lately, as last read."""

    ended: Sequence[Ended] = ()
    read_at: float = field(default=float("-inf"))


class Board:
    """The reads of one process; ``process``: its name among the web processes.

    State: the timelines of the listed sessions, and what ended lately.
    """

    def __init__(self, services: Services, hub: Hub, process: str) -> None:
        self._reader = services.database.overview
        self._actions = services.database.operator_actions
        self._clock = services.clock
        self._database_clock = services.database.clock
        self._config = services.config
        self._queue = services.queue
        self._queue_places = services.sessions.queue_places
        self._bus = services.bus
        self._presence = services.presence
        self._signer = services.signer
        self._hub = hub
        self._process = process
        self._timelines: dict[str, tuple[int, list[Step]]] = {}
        """The steps of each listed session, and the seq at which they were read."""
        self._listed: dict[str, Session] = {}
        self._hashes: dict[str, str] = {}
        """The ids of listed sessions by each hash of theirs."""
        self._lately = _Lately()

    def __repr__(self) -> str:
        return f"<Board of {self._process} sessions={len(self._listed)}>"

    async def sessions(self) -> list[SessionRow]:
        """Return the listed sessions, the newest first. Raises Unavailable."""
        found = await self._reader.newest(MAX_SESSIONS)
        stale = [each.id for each in found if self._timelines.get(each.id, (0, ()))[0] != each.seq]
        read = await self._reader.transitions(stale)
        known = self._timelines
        self._timelines = {
            each.id: (each.seq, rows.steps_of(read[each.id])) if each.id in read else known[each.id] for each in found
        }
        if self._listed.keys() != {each.id for each in found}:
            self._hashes = {hashed: each.id for each in found for hashed in self._signer.tombstone_hashes(each.id)}
        self._listed = {each.id: each for each in found}
        return [rows.session_row(each, self._timelines[each.id][1]) for each in found]

    async def session(self, session_id: str) -> SessionRow:
        """Return any living session. Raises NotFound, Unavailable."""
        session = await self._reader.one(session_id) if valid_session_id(session_id) else None
        if session is None:
            raise NotFound
        events = await self._reader.transitions([session_id])
        return rows.session_row(session, rows.steps_of(events[session_id]))

    async def actions(self) -> list[Action]:
        """Return the newest actions, the newest first. Raises Unavailable."""
        return rows.actions_of(await self._actions.newest(MAX_ACTIONS), self._hashes)

    async def state(self, *, operators: int) -> State:
        """Return everything but the sessions. Raises Unavailable."""
        troubles: list[str] = []
        unfinished, holders = await self._reader.unfinished(), await self._reader.holders()
        leases, described = await self._reader.chore_leases(), await self._reader.descriptions()
        ended = await self._ended()
        (jobs, seen), webs, places = await asyncio.gather(
            self._jobs_and_workers(), self._webs(operators), self._places()
        )
        if jobs is None:
            troubles.append(_NO_REDIS)
        elif not self._hub.delivers:
            troubles.append(_NO_DELIVERY)
        return State(
            now=timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC)),
            queue=rows.queue_state(unfinished, jobs=jobs, limit=self._config.queue_limit),
            workers=rows.worker_states(seen, holders, described),
            chores=[ChoreLease(each.name, each.owner, timestamp(each.expires_at)) for each in leases],
            webs=webs,
            failures=rows.failure_counts(ended),
            processors=rows.processor_states(ended),
            places=places,
            troubles=troubles,
            sampled=len(ended) >= ENDED_ROWS,
        )

    def presence(self, operators: int) -> WebPresence:
        """Return what this process says of itself to the others."""
        counts = {sample.labels["transport"]: int(sample.value) for sample in _followers() if sample.value}
        return WebPresence(__version__, counts, operators)

    async def _ended(self) -> Sequence[Ended]:
        now = self._clock.monotonic()
        if now - self._lately.read_at >= LATELY_PERIOD_SECONDS:
            since = max(0.0, self._database_clock.now() - LATELY_SECONDS - self._config.deadline_seconds)
            after_id = session_id_of(since, bytes(10))
            self._lately = _Lately(await self._reader.ended(after_id=after_id, seconds=LATELY_SECONDS), now)
        return self._lately.ended

    async def _jobs_and_workers(self) -> tuple[int | None, dict[str, float]]:
        try:
            return await self._queue.depth(), await self._queue.workers()
        except QueueUnavailable:
            return None, {}

    async def _webs(self, operators: int) -> list[WebState]:
        """Return all web processes, this one as it is now."""
        found = dict(await self._presence.all() or {})
        found[self._process] = (0.0, self.presence(operators))
        return [
            WebState(name, each.version, each.sockets, each.operators, seconds)
            for name, (seconds, each) in sorted(found.items())
        ]

    async def _places(self) -> dict[str, Place]:
        """Return the queue places and the progress of the listed sessions."""
        waiting = [each.id for each in self._listed.values() if each.status is Status.CREATED]
        running = [each.id for each in self._listed.values() if each.status is Status.PROCESSING]
        found: dict[str, Place] = {}
        if waiting:
            queue = await self._queue_places.current()
            found |= {each: Place(position=queue[each].queue_position) for each in waiting if each in queue}
        if running:
            progress = await self._bus.last_progress(running)
            found |= {
                each: Place(progress=last.progress, stage=last.stage)
                for each, last in progress.items()
                if last is not None
            }
        return found


def _followers() -> list[Sample]:
    return [sample for metric in metrics.followers.collect() for sample in metric.samples]
