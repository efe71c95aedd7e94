"""One screen: follows one session to its end over one transport, comes back as
static/tryon.js does, and notes what it sees.

It stays on its transport, so that each is judged by itself, and never hides what came:
a repeat is noted, not dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from server.chaos.http import Network, NoAnswer
from server.chaos.records import AnyRecord, Asked, Clock, Closed, Heard, Progressed, Snapshot, Transition, Trouble
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL
from tryon.protocol.paths import SESSIONS
from tryon.protocol.states import Status

TRANSPORTS: Final = ("ws", "sse", "long-poll", "poll")
OPEN_SECONDS: Final = 5.0
STEADY_SECONDS: Final = 5.0
FIRST_SECONDS, MOST_SECONDS = 0.5, 30.0
WAIT_SECONDS: Final = 25
POLL_SECONDS: Final = 2.0
WATCHDOG_PERIODS: Final = 2.2
LAST_SECONDS: Final = 3.0
"""How long a screen that was shown the end waits for the close, and for what must not
follow.
"""
AT_ONCE: Final = frozenset({4001, 4002, 4003})
"""These and the other numbers are those of static/tryon.js."""

Record = Callable[[AnyRecord], None]


@dataclass(frozen=True, slots=True)
class Pass:
    """What opens a session: its owner's token, or a ticket for it."""

    token: str | None = None
    ticket: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def query(self) -> str:
        return f"&ticket={self.ticket}" if self.ticket else ""

    @property
    def subprotocols(self) -> list[Any]:
        return [SUBPROTOCOL, f"{BEARER_SUBPROTOCOL}{self.token}"] if self.token else [SUBPROTOCOL]


class Lost(Exception):
    """This connection is over.

    ``code``: of the close, of HTTP, or 1006; ``told``: seconds after which to come
    back.
    """

    def __init__(self, code: int, reason: str = "", told: float | None = None) -> None:
        self.code = code
        self.reason = reason
        self.told = told
        super().__init__(f"{code} {reason}")


UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError)
"""What reading an answer raises that is not what the protocol says."""


def transition(event: Mapping[str, Any]) -> Transition:
    """Of an event frame, of ``missed``, or of the history.

    Raises ValueError for nonsense.
    """
    made = msgspec.convert([event[name] for name in ("seq", "event", "from", "status", "at")], Transition)
    if made.unix < 0:
        raise ValueError(f"{made.at} is no time of an event")
    return made


def pictures(session: Mapping[str, Any], *events: Mapping[str, Any]) -> list[str]:
    """The paths of all links to files in a session and in events of it."""
    links = session.get("links", {})
    found = [links.get("input"), links.get("garment"), links.get("output")]
    found += [event["data"].get("output") for event in events]
    return sorted({link.partition("?")[0] for link in found if link is not None})


class Screen:
    """See the module.

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
        opened_by: Pass,
        number: int,
        choice: random.Random,
        syncs: bool = False,
        poll_seconds: float | None = None,
    ) -> None:
        """``poll_seconds``: between two polls, instead of what the server suggests."""
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
        self._network = network
        self._record = record
        self._owner = owner
        self._pass = opened_by
        self._number = number
        self._choice = choice
        self._syncs = syncs
        self._poll_seconds = poll_seconds
        self._etag: str | None = None
        self._failures = 0
        self._live_at: float | None = None

    def __repr__(self) -> str:
        return f"<Screen {self.client} {self.over} seq={self.cursor} {self.outcome or 'follows'}>"

    async def run(self) -> str:
        """To the end, whatever happens to the connection; the outcome."""
        ways = {"ws": self._ws, "sse": self._sse, "long-poll": self._long_poll, "poll": self._poll}
        while self.outcome is None:
            self._live_at = None
            try:
                await self._connected(ways[self.over])
            except Lost as lost:
                self._closed(lost.code, lost.reason)
                if self.outcome is None:
                    await asyncio.sleep(self._pause(lost))
        return self.outcome

    async def _connected(self, way: Callable[[], Awaitable[None]]) -> None:
        """Once. What nobody can read is the end of a connection."""
        try:
            await way()
        except UNREADABLE as error:
            self._record(Trouble(t=time.time(), who=self.client, what=f"unreadable: {error!r}"))
            raise Lost(1006, "unreadable") from None

    def _closed(self, code: int, reason: str) -> None:
        self.connected = False
        self._record(Closed(t=time.time(), client=self.client, session=self.session, code=code, reason=reason))
        if code in (404, 4504, 4510):
            self.outcome = "gone"
        elif code in (401, 403) or 4500 <= code <= 4999:
            self.outcome = "refused"
        elif self.end is not None:
            self.outcome = self.end
        elif code == 1000:
            self.outcome = "refused"  # the checker says why that is wrong

    def _pause(self, lost: Lost) -> float:
        steady = self._live_at is not None and time.monotonic() - self._live_at >= STEADY_SECONDS
        self._failures = 1 if steady else self._failures + 1
        if lost.told is not None:
            return lost.told
        if lost.code in AT_ONCE and self._failures == 1:
            return 0.0
        return self._choice.random() * float(min(MOST_SECONDS, FIRST_SECONDS * 2 ** (self._failures - 1)))

    # -- what is shown -----------------------------------------------------------------

    def _asked(self, over: str | None = None) -> None:
        self._record(
            Asked(
                t=time.time(),
                client=self.client,
                owner=self._owner,
                session=self.session,
                over=over or self.over,
                since=self.cursor,
            )
        )

    def _snapshot(self, session: Mapping[str, Any], missed: list[Mapping[str, Any]]) -> None:
        self._record(
            Snapshot(
                t=time.time(),
                client=self.client,
                session=str(session["session_id"]),
                seq=int(session["seq"]),
                status=Status(session["status"]).value,
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
            self._live_at = time.monotonic()

    def _frame(self, frame: Mapping[str, Any]) -> float | None:
        """Note one frame; the ping period, where the server names it.

        Raises Lost for a ``bye``.
        """
        match frame["type"]:
            case "snapshot":
                self._snapshot(frame["session"], frame["missed"])
                return float(frame["ping_seconds"])
            case "event":
                event = transition(frame)
                heard = Heard(
                    t=time.time(),
                    client=self.client,
                    session=str(frame["session_id"]),
                    event=event,
                    pictures=pictures({}, frame),
                )
                self._record(heard)
                self.cursor = max(self.cursor, event.seq)
                if frame["terminal"]:
                    self.end = event.status
            case "progress":
                seq = int(frame["seq"])
                self._record(Progressed(t=time.time(), client=self.client, session=str(frame["session_id"]), seq=seq))
            case "bye":
                wait = frame["retry_after_ms"]
                raise Lost(int(frame["code"]), str(frame["reason"]), None if wait is None else wait / 1000)
        return None

    def _quiet_seconds(self, period: float) -> float:
        """How long a connection may say nothing."""
        return LAST_SECONDS if self.end is not None else period * WATCHDOG_PERIODS

    # -- transports --------------------------------------------------------------------

    def _path(self, view: str = "") -> str:
        return f"{SESSIONS}/{self.session}{view}?since={self.cursor}{self._pass.query}"

    async def _ws(self) -> None:
        self._asked()
        try:
            connection = await connect(
                self._network.websocket_url(self._path("/ws")),
                subprotocols=self._pass.subprotocols,
                proxy=None,
                ping_interval=None,
                compression=None,
                open_timeout=OPEN_SECONDS,
                close_timeout=0.5,
                local_addr=self._network.source(self._number),
            )
        except InvalidStatus as error:
            raise Lost(error.response.status_code) from None  # a browser cannot read it: full jitter
        except (OSError, TimeoutError, WebSocketException) as error:
            raise Lost(1006, type(error).__name__) from None
        with self._network.holding(connection.transport):
            period, pinged = OPEN_SECONDS / WATCHDOG_PERIODS, 0.0
            try:
                while True:
                    async with asyncio.timeout(self._quiet_seconds(period)):
                        frame = json.loads(await connection.recv())
                    if frame["type"] == "pong":
                        self._clock(frame["at"], pinged)
                    first = self._live_at is None
                    period = self._frame(frame) or period
                    if first:
                        pinged = time.time()
                        with contextlib.suppress(ConnectionClosed):  # what came before the close is still to be read
                            await connection.send('{"type":"ping"}')
                            if self._syncs:
                                self._asked("sync")
                                await connection.send(json.dumps({"type": "sync", "since": self.cursor}))
            except ConnectionClosed:
                raise Lost(connection.close_code or 1006) from None
            except TimeoutError:
                raise Lost(1006, "silent") from None

    def _clock(self, at: str, pinged: float) -> None:
        now = time.time()
        offset = transition({"seq": 0, "event": "", "from": None, "status": "", "at": at}).unix - (now + pinged) / 2
        self._record(Clock(t=now, offset=round(offset, 4), round_trip=round(now - pinged, 4)))

    async def _sse(self) -> None:
        self._asked()
        headers = {**self._pass.headers, "Accept": "text/event-stream", "Last-Event-ID": str(self.cursor)}
        path = f"{SESSIONS}/{self.session}/events?{self._pass.query.removeprefix('&')}"
        told: float | None = None
        period, rest = OPEN_SECONDS / WATCHDOG_PERIODS, b""
        try:
            async with self._network.exchange(
                "GET", path, number=self._number, headers=headers, seconds=OPEN_SECONDS
            ) as stream:
                if stream.status != 200:
                    raise Lost(stream.status)
                while True:
                    async with asyncio.timeout(self._quiet_seconds(period)):
                        piece = await stream.piece()
                    if piece is None:
                        raise Lost(1006 if self._live_at else 503, "stream ended", told)
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        if line.startswith(b"retry:"):
                            told = int(line[6:]) / 1000
                        elif line.startswith(b"data:"):
                            period = self._frame(json.loads(line[5:])) or period
        except NoAnswer as error:
            raise Lost(1006, str(error)) from None
        except TimeoutError:
            raise Lost(1006, "silent") from None

    async def _long_poll(self) -> None:
        await self._ask(None)
        while self.end is None:
            began, before = time.monotonic(), self.cursor
            await self._ask(WAIT_SECONDS)
            if self.cursor == before and time.monotonic() - began < 1:
                await asyncio.sleep(POLL_SECONDS)  # a server that is about to stop does not wait
        self._closed(1000, "")

    async def _poll(self) -> None:
        while True:
            pause = await self._ask(None)
            if self.end is not None:
                return self._closed(1000, "")
            await asyncio.sleep(self._poll_seconds or pause or POLL_SECONDS)

    async def _ask(self, wait: int | None) -> float | None:
        """One look.

        Returns the hint when the next is worth it; None where there was no news.
        """
        self._asked()
        path = self._path() + ("" if wait is None else f"&wait={wait}")
        conditional = {"If-None-Match": self._etag} if self._etag and wait is None else {}
        headers = self._pass.headers | conditional
        try:
            answer = await self._network.request(
                "GET", path, number=self._number, headers=headers, seconds=OPEN_SECONDS + (wait or 0)
            )
        except NoAnswer as error:
            raise Lost(1006, str(error)) from None
        if answer.status not in (200, 304):
            raise Lost(answer.status, answer.code, answer.retry_after)
        self._live()
        if answer.status == 304:
            return None
        session = answer.json()
        self._etag = answer.headers.get("etag")
        self._snapshot(session, session["missed"])
        return answer.retry_after or POLL_SECONDS
