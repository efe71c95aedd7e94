"""Finds what has changed while an operator looks, once for all pages of this process.

Theory of operation. The truth is the database, and its feed says whether anything was
committed: one small statement every :data:`LOOK_SECONDS`. Only if it moved is the list
read, and only what differs from the last list is sent. So an operator sees a transition
of any process within a moment, also while Redis is unavailable; the cost does not grow
with the number of transitions, since a list is at most
:data:`~server.domain.operator.MAX_SESSIONS` rows; and without an open page there is no
task and no read. An action of this process wakes the watch at once, one of another
process is found by the next look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

import msgspec

from server import __version__
from server.adapters.database.feed import Cursor, Feed
from server.domain.operator import (
    Action,
    ActionsFrame,
    Frame,
    Overview,
    SessionRow,
    SessionsFrame,
    State,
    StateFrame,
)
from server.system.clock import Clock
from server.web.ops.board import Board
from server.web.ops.rows import changed
from server.web.ops.viewers import Viewer
from server.web.push.hub import Hub
from tryon.protocol.errors import Unavailable

log = logging.getLogger("tryon.operator")

LOOK_SECONDS: Final = 0.5
"""Time between two looks at the feed."""

STATE_SECONDS: Final = 1.0
"""Time between two states."""

LIST_SECONDS: Final = 2.0
"""Time after which the list is read anyway: leases are renewed without a transition."""

MAX_VIEWERS: Final = 32
"""Maximum open pages of operators for each process."""

_UNREADABLE: Final = "The database is unavailable: sessions and queue are as they were last seen."


class Watch:
    """The open pages of one process, and what they were last sent.

    State: the pages, the last list, state and actions, and the place in the feed.
    """

    def __init__(self, board: Board, feed: Feed, hub: Hub, clock: Clock) -> None:
        self._board = board
        self._feed = feed
        self._hub = hub
        self._clock = clock
        self._viewers: set[Viewer] = set()
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._lock = asyncio.Lock()
        self._cursor: Cursor | None = None
        self._rows: dict[str, SessionRow] = {}
        self._actions: list[Action] = []
        self._state: State | None = None
        self._listed_at = float("-inf")
        self._state_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Watch viewers={len(self._viewers)} sessions={len(self._rows)}>"

    @property
    def viewers(self) -> int:
        """The number of open pages."""
        return len(self._viewers)

    async def overview(self, operator: str) -> Overview:
        """Return everything, not older than a second. Raises Unavailable."""
        async with self._lock:
            if self._task is None:
                await self._look()
            assert self._state is not None
            return Overview(operator, __version__, self._state, list(self._rows.values()), self._actions)

    async def join(self, operator: str) -> Viewer:
        """Return a page that is sent everything, then what changes.

        Raises Unavailable. The caller calls :meth:`leave`.
        """
        if len(self._viewers) >= MAX_VIEWERS or self._hub.draining:
            raise Unavailable(retry_after=5)
        viewer = Viewer()
        viewer.put(msgspec.json.encode(await self.overview(operator)))
        self._viewers.add(viewer)  # no look comes between: it would need the lock's next turn
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="operators")
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a page; the last one ends the task."""
        self._viewers.discard(viewer)
        if not self._viewers and self._task is not None:
            self._task.cancel()
            self._task = None

    def wake(self) -> None:
        """Look now: an operator has done something."""
        self._listed_at = float("-inf")
        self._woken.set()

    async def stop(self) -> None:
        """End all pages."""
        for viewer in self._viewers:
            viewer.end("draining")
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            if self._hub.draining:
                for viewer in self._viewers:
                    viewer.end("draining")
                return
            try:
                async with self._lock:
                    await self._look()
            except Unavailable as error:
                self._say_unreadable(error)
            except Exception:
                log.exception("The operator's page could not be brought up to date")

    async def _look(self) -> None:
        """Read what may have changed, and send what has. Raises Unavailable."""
        now = self._clock.monotonic()
        cursor = await self._feed.cursor()
        if cursor != self._cursor or now - self._listed_at >= LIST_SECONDS:
            rows = await self._board.sessions()
            self._cursor, self._listed_at = cursor, now
            different, gone = changed(self._rows, rows)
            self._rows = {row.session_id: row for row in rows}
            if different or gone:
                self._send(SessionsFrame(different, gone))
        actions = await self._board.actions()
        if new := [each for each in actions if each not in self._actions]:
            self._send(ActionsFrame(new))
        self._actions = actions
        if now - self._state_at >= STATE_SECONDS or self._state is None:
            self._state = await self._board.state(operators=len(self._viewers))
            self._state_at = now
            self._send_state(self._state)

    def _say_unreadable(self, error: Unavailable) -> None:
        log.debug("The operator's page could not be read: %s", error.detail)
        if self._state is not None and self._state.troubles[:1] != [_UNREADABLE]:
            self._state = msgspec.structs.replace(self._state, troubles=[_UNREADABLE])
            self._state_at = float("-inf")
            self._send_state(self._state)

    def _send(self, frame: Frame) -> None:
        text = msgspec.json.encode(frame)
        for viewer in self._viewers:
            viewer.put(text)

    def _send_state(self, state: State) -> None:
        text = msgspec.json.encode(StateFrame(state))
        for viewer in self._viewers:
            viewer.put_state(text)
