"""One SELECT for all clients that want to read a session at the same moment.

A thousand clients that reconnect together would otherwise be a thousand statements,
each several hops to the database's thread or server. While one batch is being read the
next one gathers, for :data:`PATIENCE_SECONDS` at most: then it is read beside the one
before, whose connection may be lost. A single request waits for no other.

Guarantee: an answer was read by a statement that began after the request was made. So a
client that first registers for events and then reads sees every event that was not
pushed to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from server.adapters.database.reading import SessionReader, SessionWithEvents
from server.adapters.redis.bus import RedisBus
from server.domain.session import Progress
from tryon.protocol.states import Status

MAX_BATCH: Final = 400
"""Maximum sessions in one statement: below every database's limit of parameters, and
fast enough not to block the event loop.
"""

PATIENCE_SECONDS: Final = 0.5
"""Time after which the next batch no longer waits for the one before. A read is bounded
by the database, so only a few batches are ever read at once.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """A session with its events after ``since``, and the progress of a running one."""

    found: SessionWithEvents
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class _Request:
    session_id: str
    since: int | None
    may: Callable[[str], bool]
    answer: asyncio.Future[Reading | None]


class SharedReads:
    """The requests of one event loop that wait for the next batch.

    An error of the database reaches every request of the batch.
    """

    def __init__(self, *, reader: SessionReader, bus: RedisBus) -> None:
        self._reader = reader
        self._bus = bus
        self._requests: list[_Request] = []
        self._batches: asyncio.Task[None] | None = None
        self._reading: set[asyncio.Task[None]] = set()
        """The batches that are being read: normally one."""

    def __repr__(self) -> str:
        return f"<SharedReads waiting={len(self._requests)}>"

    async def read(self, session_id: str, since: int | None, may: Callable[[str], bool]) -> Reading | None:
        """Return the session with its events after ``since`` (None: without events).

        ``may`` decides from the owner's hash whether the caller may read the session.
        None: no such session lives, or the caller may not read it. Both are answered at
        the same step, before the row is decoded and Redis is asked, so the response
        time reveals nothing.
        """
        request = _Request(session_id, since, may, asyncio.get_running_loop().create_future())
        self._requests.append(request)
        if self._batches is None:
            self._batches = asyncio.create_task(self._read_all(), name="reader")
        return await request.answer

    async def _read_all(self) -> None:
        """Read batch after batch until no request is left.

        It starts a tick later, so that one tick's requests are one batch.
        """
        try:
            while self._requests:
                batch, self._requests = self._requests[:MAX_BATCH], self._requests[MAX_BATCH:]
                reading = asyncio.create_task(self._answer(batch), name="batch")
                self._reading.add(reading)
                reading.add_done_callback(self._reading.discard)
                await asyncio.wait({reading}, timeout=PATIENCE_SECONDS)
        finally:
            self._batches = None

    async def _answer(self, batch: list[_Request]) -> None:
        try:
            await self._read(batch)
        except Exception as error:
            for request in batch:
                if not request.answer.done():
                    request.answer.set_exception(error)

    async def _read(self, batch: list[_Request]) -> None:
        cursors = [request.since for request in batch if request.since is not None]
        asking: dict[str, list[_Request]] = {}
        for request in batch:
            asking.setdefault(request.session_id, []).append(request)

        def may(session_id: str, owner: str) -> bool:
            return any(request.may(owner) for request in asking[session_id])

        living = await self._reader.many_with_events(asking, min(cursors) if cursors else None, may)
        known: list[tuple[_Request, SessionWithEvents]] = []
        for request in batch:
            found = living.get(request.session_id)
            if found is not None and request.may(found.session.owner):
                known.append((request, found))
            elif not request.answer.done():
                request.answer.set_result(None)
        running = dict.fromkeys(found.session.id for _, found in known if found.session.status is Status.PROCESSING)
        progress = await self._bus.last_progress(running)
        for request, found in known:
            if request.answer.done():  # its client has disconnected
                continue
            since = request.since
            events = [] if since is None else [event for event in found.events if event.seq > since]
            request.answer.set_result(
                Reading(SessionWithEvents(found.session, events), progress.get(request.session_id))
            )
