"""One SELECT for everybody who wants to read a session at the same moment.

A thousand clients that come back together would otherwise be a thousand statements,
each several hops to the database's thread or server. While one batch is being read the
next one gathers; who asks alone waits for nobody.

Guarantee: an answer was read by a statement that began after the question was asked. So
whoever registers for news first and asks then sees everything that it was not told.
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
"""Sessions in one statement: below every database's limit of parameters, and quick
enough not to hold up the loop.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """A session with its events after ``since``, and the latest word about it if it is
    running.
    """

    story: SessionWithEvents
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class _Question:
    session_id: str
    since: int | None
    may: Callable[[str], bool]
    answer: asyncio.Future[Reading | None]


class Reader:
    """Reads for one event loop.

    Raises what the database raises, to everybody in the batch.
    """

    def __init__(self, reads: SessionReader, bus: RedisBus) -> None:
        self._reads = reads
        self._bus = bus
        self._questions: list[_Question] = []
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Reader waiting={len(self._questions)}>"

    async def read(self, session_id: str, since: int | None, may: Callable[[str], bool]) -> Reading | None:
        """``since`` None: without events.

        ``may``: whether the owner's (hash) session may be read by who asks.

        None: there is no such session (any more), or it may not be read. Both are
        answered at the same step, before Redis is asked: the time it takes tells
        nothing either.
        """
        question = _Question(session_id, since, may, asyncio.get_running_loop().create_future())
        self._questions.append(question)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all(), name="reader")
        return await question.answer

    async def _read_all(self) -> None:
        """Batch after batch until nobody asks.

        It starts a tick later, so that one tick's questions are one batch.
        """
        try:
            while self._questions:
                batch, self._questions = self._questions[:MAX_BATCH], self._questions[MAX_BATCH:]
                try:
                    await self._read(batch)
                except Exception as error:
                    for question in batch:
                        if not question.answer.done():
                            question.answer.set_exception(error)
        finally:
            self._reading = None

    async def _read(self, batch: list[_Question]) -> None:
        cursors = [question.since for question in batch if question.since is not None]
        stories = await self._reads.many_with_events(
            {question.session_id for question in batch}, min(cursors) if cursors else None
        )
        known: list[tuple[_Question, SessionWithEvents]] = []
        for question in batch:
            story = stories.get(question.session_id)
            if story is not None and question.may(story.session.owner):
                known.append((question, story))
            elif not question.answer.done():
                question.answer.set_result(None)
        running = {story.session.id for _, story in known if story.session.status is Status.PROCESSING}
        progress = await self._bus.last_progress(running)
        for question, story in known:
            if question.answer.done():  # whoever asked has gone
                continue
            since = question.since
            events = [] if since is None else [event for event in story.events if event.seq > since]
            question.answer.set_result(
                Reading(SessionWithEvents(story.session, events), progress.get(question.session_id))
            )
