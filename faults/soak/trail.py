"""The audit trail of a soak, read from the database itself before it expires."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from server.adapters.database import tables
from server.chaos.records import Audit, Recorder, Transition
from server.domain.session import timestamp

EXPORT_SECONDS: Final = 1.0
REREAD_SECONDS: Final = 60.0
"""Age up to which rows of the audit trail are read again: on PostgreSQL they don't
appear in the order of their position.
"""


class Trail:
    """Reads the audit trail, past the product's own code for it, into the record."""

    def __init__(self, engine: AsyncEngine, record: Recorder) -> None:
        self._engine = engine
        self._record = record
        self._known: dict[tuple[str, int], Transition] = {}
        self._since = 0

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(EXPORT_SECONDS)
            with contextlib.suppress(SQLAlchemyError, OSError):  # locked, or starting again: next time
                await self.read()

    async def read(self) -> None:
        table = tables.events.c
        query = select(
            table.position, table.session_id, table.seq, table.event, table.from_status, table.status, table.at
        )
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query.where(table.position > self._since).order_by(table.position))).all()
        news: dict[str, list[Transition]] = defaultdict(list)
        now = time.time()
        for position, session_id, seq, event, before, status, at in rows:
            transition = Transition(seq, event, before, status, timestamp(at))
            if self._known.setdefault((session_id, seq), transition) is transition:
                news[session_id].append(transition)
            if at.timestamp() < now - REREAD_SECONDS:
                self._since = max(self._since, position)
        for session_id, events in news.items():
            self._record(Audit(t=now, session=session_id, events=events))


@contextlib.asynccontextmanager
async def exporting(engine: AsyncEngine, record: Recorder) -> AsyncIterator[Trail]:
    trail = Trail(engine, record)
    task = asyncio.create_task(trail.follow())
    try:
        yield trail
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
