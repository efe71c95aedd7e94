"""One screen: follows one session to its end over one transport.

It reconnects as static/tryon.js does, and records everything that it is shown. It uses
the client's connections, which lie below the cursor, and reads every frame by itself.
It stays on its transport, so that each is judged by itself, and hides nothing: a repeat
is recorded, not dropped.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec

from server.chaos import rules
from server.chaos.http import Network
from server.chaos.records import AnyRecord, Asked, Closed, Heard, Progressed, Snapshot, Transition, Trouble
from server.chaos.records import Clock as ClockRecord
from server.system.clock import Clock
from tryon.client.connection import CONNECTIONS, Access, Connection, Lost, Received, WebSocketConnection
from tryon.protocol.backoff import FIRST_SECONDS, MOST_SECONDS, STEADY_SECONDS, WATCHDOG_PERIODS, doubled

LAST_SECONDS: Final = 3.0
"""How long a screen that was shown the end waits for the close, and for frames that
must not follow.
"""

Record = Callable[[AnyRecord], None]

UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError)
"""Errors of reading an answer that breaks the protocol."""


def transition(event: Mapping[str, Any]) -> Transition:
    """Return the transition in an event frame, in ``missed``, or in the history.

    Raises ValueError for nonsense.
    """
    made = msgspec.convert([event[name] for name in ("seq", "event", "from", "status", "at")], Transition)
    if made.unix < 0:
        raise ValueError(f"{made.at} is no time of an event")
    return made


def pictures(session: Mapping[str, Any], *events: Mapping[str, Any]) -> list[str]:
    """Return the paths of all links to files in a session and in events of it."""
    links = session.get("links", {})
    found = [links.get("input"), links.get("garment"), links.get("output")]
    found += [event["data"].get("output") for event in events]
    return sorted({link.partition("?")[0] for link in found if link is not None})


class Screen:
    """One client of one session.

    ``client`` is its name in the records, ``number`` chooses its address.
    """

    def __init__(
        self,
        network: Network,
        record: Record,
        *,
        client: str,
        owner: str,
        session: str,
        over: str,
        opened_by: Access,
        number: int,
        choice: random.Random,
        clock: Clock,
        syncs: bool = False,
        poll_seconds: float | None = None,
    ) -> None:
        """Prepare a screen; :meth:`run` connects.

        ``syncs``: ask each WebSocket for a second snapshot. ``poll_seconds``: between
        two polls, instead of the server's hint.
        """
        self.client = client
        self.session = session
        self.over = over
        self.cursor = 0
        self.connected = False
        """Whether it was answered, and not cut off since."""
        self.end: str | None = None
        """The terminal status it was shown."""
        self.outcome: str | None = None
        """The same once nothing more comes, or ``gone``, or ``refused``."""
        self._line = network.line(number)
        self._record = record
        self._owner = owner
        self._access = opened_by
        self._choice = choice
        self._clock = clock
        self._syncs = syncs
        self._poll_seconds = poll_seconds
        self._failures = 0
        self._live_at: float | None = None
        self._pinged = 0.0

    def __repr__(self) -> str:
        return f"<Screen {self.client} {self.over} seq={self.cursor} {self.outcome or 'follows'}>"

    async def run(self) -> str:
        """Follow to the end, reconnecting after each loss; return the outcome."""
        while self.outcome is None:
            self._live_at = None
            try:
                await self._connection()
            except Lost as lost:
                self._closed(lost.code, lost.reason)
                if self.outcome is None:
                    await asyncio.sleep(self._pause(lost))
        return self.outcome

    async def _connection(self) -> None:
        """Show one connection to its end. Raises Lost, also for what cannot be read."""
        connection = CONNECTIONS[self.over](
            self._line,
            self.session,
            self._access,
            lambda: self.cursor,
            on_request=self._asked,
            progress=False,
            poll_seconds=self._poll_seconds,
        )
        try:
            async with aclosing(connection.received()) as items:
                async for item in items:
                    await self._take(connection, item)
                    if item.polled and self.end is not None:
                        return self._closed(1000, "")
        except Lost as lost:
            if self.over == "ws" and lost.refused:  # a browser cannot read the answer to a handshake
                raise Lost(lost.code) from None
            raise
        except UNREADABLE as error:
            self._record(Trouble(t=self._clock.wall(), who=self.client, what=f"unreadable: {error!r}"))
            raise Lost(rules.LOST, "unreadable") from None

    async def _take(self, connection: Connection, item: Received) -> None:
        if item.polled:
            self._live()
            if item.data is not None:
                session = json.loads(item.data)
                self._snapshot(session, session["missed"])
            return
        frame = json.loads(item.data or b"")
        first = self._live_at is None
        period = self._frame(frame)
        if self.end is not None:
            connection.quiet_seconds = LAST_SECONDS
        elif period is not None:
            connection.quiet_seconds = period * WATCHDOG_PERIODS
        if first and isinstance(connection, WebSocketConnection):
            await self._speak(connection)

    async def _speak(self, connection: WebSocketConnection) -> None:
        """Ask for the server's time, and perhaps for a second snapshot."""
        self._pinged = self._clock.wall()
        await connection.send('{"type":"ping"}')
        if self._syncs:
            self._asked("sync")
            await connection.send(json.dumps({"type": "sync", "since": self.cursor}))

    def _closed(self, code: int, reason: str) -> None:
        self.connected = False
        self._record(Closed(t=self._clock.wall(), client=self.client, session=self.session, code=code, reason=reason))
        if code in rules.GONE:
            self.outcome = "gone"
        elif rules.stops(code):
            self.outcome = "refused"
        elif self.end is not None:
            self.outcome = self.end
        elif code == 1000:
            self.outcome = "refused"  # the checker says why that is wrong

    def _pause(self, lost: Lost) -> float:
        steady = self._live_at is not None and self._clock.monotonic() - self._live_at >= STEADY_SECONDS
        self._failures = 1 if steady else self._failures + 1
        if lost.retry_after is not None:
            return lost.retry_after
        if lost.code in rules.AT_ONCE and self._failures == 1:
            return 0.0
        return self._choice.random() * doubled(FIRST_SECONDS, MOST_SECONDS, self._failures - 1)

    # -- what is shown -----------------------------------------------------------------

    def _asked(self, over: str | None = None) -> None:
        self._record(
            Asked(
                t=self._clock.wall(),
                client=self.client,
                owner=self._owner,
                session=self.session,
                over=over or self.over,
                since=self.cursor,
            )
        )

    def _snapshot(self, session: Mapping[str, Any], missed: list[Mapping[str, Any]]) -> None:
        if session["status"] not in rules.STATUSES:
            raise ValueError(f"{session['status']!r} is no status")
        self._record(
            Snapshot(
                t=self._clock.wall(),
                client=self.client,
                session=str(session["session_id"]),
                seq=int(session["seq"]),
                status=session["status"],
                missed=[transition(event) for event in missed],
                pictures=pictures(session, *missed),
            )
        )
        self.cursor = max(self.cursor, int(session["seq"]))
        if session["terminal"]:
            self.end = session["status"]
        self._live()

    def _live(self) -> None:
        self.connected = True
        if self._live_at is None:
            self._live_at = self._clock.monotonic()

    def _frame(self, frame: Mapping[str, Any]) -> float | None:
        """Record one frame; return the ping period, where the server names it.

        Raises Lost for a ``bye``.
        """
        match frame["type"]:
            case "snapshot":
                self._snapshot(frame["session"], frame["missed"])
                return float(frame["ping_seconds"])
            case "event":
                self._heard(frame)
            case "progress":
                seq, session = int(frame["seq"]), str(frame["session_id"])
                self._record(Progressed(t=self._clock.wall(), client=self.client, session=session, seq=seq))
            case "pong":
                self._compare_clocks(frame["at"])
            case "bye":
                wait = frame["retry_after_ms"]
                raise Lost(int(frame["code"]), str(frame["reason"]), retry_after=None if wait is None else wait / 1000)
        return None

    def _heard(self, frame: Mapping[str, Any]) -> None:
        event = transition(frame)
        self._record(
            Heard(
                t=self._clock.wall(),
                client=self.client,
                session=str(frame["session_id"]),
                event=event,
                pictures=pictures({}, frame),
            )
        )
        self.cursor = max(self.cursor, event.seq)
        if frame["terminal"]:
            self.end = event.status

    def _compare_clocks(self, at: str) -> None:
        now = self._clock.wall()
        seen = transition({"seq": 0, "event": "", "from": None, "status": "", "at": at}).unix
        offset = seen - (now + self._pinged) / 2
        self._record(ClockRecord(t=now, offset=round(offset, 4), round_trip=round(now - self._pinged, 4)))
