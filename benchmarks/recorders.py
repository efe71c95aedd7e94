"""Clients that write down what they saw and when, over every transport, and the judge of what they wrote.

A recorder does what the browser client does (``static/tryon.js``): it holds one cursor, comes back after whatever pause it was
told or with full jitter that doubles with each failure, and stops at a code that says so. It stays on one transport, so
that each is judged by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from server.domain.session import AuditEvent
from server.domain.tokens import SESSIONS

PUSHED: Final = ("ws", "sse")
POLLED: Final = ("long-poll", "poll")
TRANSPORTS: Final = (*PUSHED, *POLLED)
FIRST_SECONDS, MOST_SECONDS = 0.5, 30.0
STEADY_SECONDS: Final = 5.0
OPEN_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 25
WATCHDOG_PERIODS: Final = 2.2
AT_ONCE: Final = frozenset({4001, 4002, 4003})


class Sight(NamedTuple):
    """One transition as one client saw it: its own time, and when that was on this machine's clock (Unix seconds)."""

    seq: int
    event: str
    status: str
    at: float
    seen: float


class Drop(NamedTuple):
    """A connection that ended before its session: when, and the close code, the HTTP status, or what went wrong. ``live``:
    it stood before; else it was one that did not come about."""

    seen: float
    why: str
    live: bool


class _Lost(Exception):
    """This connection is over; ``told``: seconds after which to come back."""

    def __init__(self, why: str, told: float | None = None, *, at_once: bool = False) -> None:
        self.told = told
        self.at_once = at_once
        super().__init__(why)


class _Over(Exception):
    """There is nothing more to follow: a terminal status, ``gone`` or a refusal."""


def unix(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


class Recorder:
    """Follow one session to its end. ``urls``: where to try in turn. Run it as a task, or with ``async with``."""

    def __init__(
        self,
        transport: str,
        urls: Sequence[str],
        session_id: str,
        token: str,
        *,
        http: httpx.AsyncClient,
        poll_seconds: float = 0.25,
    ) -> None:
        self.transport = transport
        self.session_id = session_id
        self.sights: list[Sight] = []
        self.snapshots: list[tuple[float, int]] = []
        """When a state was read as a whole, and its seq: what the page then shows."""
        self.drops: list[Drop] = []
        self.outcome: str | None = None
        """A terminal status, ``gone``, or the code of a refusal."""
        self.began = 0.0
        self.ended = 0.0
        self.cursor = 0
        self.connected = False
        self._urls = urls
        self._turn = random.randrange(len(urls))
        self._token = token
        self._http = http
        self._poll_seconds = poll_seconds
        self._failures = 0
        self._live_since: float | None = None

    def __repr__(self) -> str:
        return f"<Recorder {self.transport} {self.session_id} seq={self.cursor} {self.outcome or 'follows'}>"

    @property
    def _url(self) -> str:
        return f"{self._urls[self._turn % len(self._urls)]}{SESSIONS}/{self.session_id}"

    async def run(self) -> None:
        """To the end; never raises but what is a bug here or in the server's frames."""
        self.began = time.time()
        follow = {"ws": self._ws, "sse": self._sse, "long-poll": self._long_poll, "poll": self._poll}[self.transport]
        while self.outcome is None:
            self._live_since = None
            try:
                await follow()
            except _Over as over:
                self.outcome = str(over)
            except _Lost as lost:
                self.connected = False
                self.drops.append(Drop(time.time(), str(lost), self._live_since is not None))
                await asyncio.sleep(self._pause(lost))
                self._turn += 1
        self.connected = False
        self.ended = time.time()

    def _pause(self, lost: _Lost) -> float:
        steady = self._live_since is not None and time.monotonic() - self._live_since >= STEADY_SECONDS
        self._failures = 1 if steady else self._failures + 1
        if lost.told is not None:
            return lost.told
        if lost.at_once and self._failures == 1:
            return 0.0
        return random.random() * float(min(MOST_SECONDS, FIRST_SECONDS * 2 ** (self._failures - 1)))

    def _live(self) -> None:
        self.connected = True
        if self._live_since is None:
            self._live_since = time.monotonic()

    # -- what is told --------------------------------------------------------------------------------------------

    def _saw(self, event: Mapping[str, Any]) -> None:
        sight = Sight(event["seq"], event["event"], event["status"], unix(event["at"]), time.time())
        self.sights.append(sight)
        self.cursor = max(self.cursor, sight.seq)

    def _snapshot(self, session: Mapping[str, Any], missed: Iterable[Mapping[str, Any]]) -> None:
        for event in missed:
            self._saw(event)
        self.snapshots.append((time.time(), session["seq"]))
        self._live()

    def _frame(self, frame: Mapping[str, Any]) -> float | None:
        """Take one frame. Returns the server's ping period, when it names it. Raises _Over and _Lost at a ``bye``."""
        kind = frame["type"]
        if kind == "snapshot":
            self._snapshot(frame["session"], frame["missed"])
            return float(frame["ping_seconds"])
        if kind == "event":
            self._saw(frame)
        elif kind == "bye":
            self._bye(frame["code"], frame["reason"], frame["retry_after_ms"])
        return None

    def _bye(self, code: int, reason: str, retry_after_ms: int | None) -> None:
        if code == 1000:
            raise _Over(reason)
        if code == 4510:
            raise _Over("gone")
        if 4500 <= code <= 4999:
            raise _Over(f"closed {code}")
        raise _Lost(str(code), None if retry_after_ms is None else retry_after_ms / 1000, at_once=code in AT_ONCE)

    # -- transports ----------------------------------------------------------------------------------------------

    async def _ws(self) -> None:
        url = f"{self._url.replace('http', 'ws', 1)}/ws?since={self.cursor}"
        quiet: float | None = OPEN_SECONDS
        try:
            connection = await connect(
                url,
                subprotocols=["tryon.v1", f"tryon.bearer.{self._token}"],  # type: ignore[list-item]  # a NewType of str
                proxy=None,
                ping_interval=None,
                compression=None,
                open_timeout=OPEN_SECONDS,
                close_timeout=0.5,
            )
        except InvalidStatus as error:
            raise _Lost(f"HTTP {error.response.status_code}", _after(error.response.headers)) from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise _Lost(type(error).__name__) from None
        try:
            while True:
                async with asyncio.timeout(quiet):
                    frame = json.loads(await connection.recv())
                ping_seconds = self._frame(frame)
                if ping_seconds is not None:
                    quiet = ping_seconds * WATCHDOG_PERIODS
        except ConnectionClosed:
            code = connection.close_code or 1006
            if 4500 <= code <= 4999:
                raise _Over(f"closed {code}") from None
            raise _Lost(str(code), at_once=code in AT_ONCE) from None
        except TimeoutError:
            raise _Lost("silent") from None
        finally:
            connection.transport.abort()

    async def _sse(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Last-Event-ID": str(self.cursor)}
        quiet = OPEN_SECONDS
        told: float | None = None
        try:
            async with self._http.stream("GET", f"{self._url}/events", headers=headers, timeout=None) as answer:
                if answer.status_code == 204:
                    raise _Over(self.sights[-1].status if self.sights else "ended")
                self._refused(answer)
                lines = answer.aiter_lines().__aiter__()
                while True:
                    async with asyncio.timeout(quiet):
                        line = await anext(lines, None)
                    if line is None:
                        raise _Lost("stream ended", told)
                    if line.startswith("retry:"):
                        told = int(line[6:]) / 1000
                    elif line.startswith("data:"):
                        ping_seconds = self._frame(json.loads(line[5:]))
                        if ping_seconds is not None:
                            quiet = ping_seconds * WATCHDOG_PERIODS
        except TimeoutError:
            raise _Lost("silent") from None
        except httpx.HTTPError as error:
            raise _Lost(type(error).__name__) from None

    async def _poll(self) -> None:
        while True:
            await self._ask(None)
            await asyncio.sleep(self._poll_seconds)

    async def _long_poll(self) -> None:
        await self._ask(None)
        while True:
            began = time.monotonic()
            if not await self._ask(WAIT_SECONDS) and time.monotonic() - began < 1:
                await asyncio.sleep(self._poll_seconds)  # a stopping server does not wait

    async def _ask(self, wait: int | None) -> bool:
        query = {"since": self.cursor} | ({} if wait is None else {"wait": wait})
        try:
            try:
                answer = await self._get(query, OPEN_SECONDS + (wait or 0))
            except (httpx.RemoteProtocolError, httpx.ReadError):
                # A kept connection was closed as it was used again: a browser asks once more (RFC 9110 section 9.2.2).
                answer = await self._get(query, OPEN_SECONDS + (wait or 0))
        except httpx.HTTPError as error:
            raise _Lost(type(error).__name__) from None
        if answer.status_code == 304:
            self._live()
            return False
        self._refused(answer)
        session = answer.json()
        self._snapshot(session, session["missed"])
        if session["terminal"]:
            raise _Over(session["status"])
        return True

    async def _get(self, query: Mapping[str, int], seconds: float) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token}"}
        return await self._http.get(self._url, params=dict(query), headers=headers, timeout=seconds)

    def _refused(self, answer: httpx.Response) -> None:
        if answer.status_code == 404:
            raise _Over("gone" if self.cursor else "not found")
        if answer.status_code == 401:
            raise _Over("unauthorized")
        if answer.status_code != 200:
            raise _Lost(f"HTTP {answer.status_code}", _after(answer.headers))


def _after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After")
    return None if value is None else float(value)


# -- the judge ---------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What is wrong with what clients saw, in words; and how late and how often cut off they were."""

    wrong: list[str] = field(default_factory=list)
    clients: int = 0
    sessions: int = 0
    sights: int = 0
    stale_seconds: float = 0.0
    """The worst of all: from a transition's commit, or from when its client began if that was later, to its sight."""
    stalest: str = ""
    drops: dict[str, list[str]] = field(default_factory=dict)
    """Connections that stood and were lost, by transport."""
    refusals: dict[str, list[str]] = field(default_factory=dict)
    """Connections that did not come about."""

    def __str__(self) -> str:
        return (
            f"{self.clients} clients of {self.sessions} sessions, {self.sights} sights, "
            f"stale {self.stale_seconds:.2f} s ({self.stalest}), drops {self.drops}, {len(self.wrong)} wrong"
        )


def judge(
    recorders: Sequence[Recorder],
    trails: Mapping[str, Sequence[AuditEvent]],
    *,
    finished: bool = True,
    unreadable_until: float = 0.0,
) -> Verdict:
    """Hold every client's record against its session's audit trail: no gap, no repeat, no step back, nothing invented,
    and (``finished``) the end, the same as in the database.

    ``unreadable_until``: nobody could ask the database before (Unix seconds), so what was polled is stale from then on.
    """
    verdict = Verdict(clients=len(recorders), sessions=len(trails))
    for each in recorders:
        trail = trails.get(each.session_id, ())
        verdict.sights += len(each.sights)
        for problem in _problems(each, trail, finished=finished):
            verdict.wrong.append(f"{each.transport} {each.session_id}: {problem}")
        for sight in each.sights:
            since = max(sight.at, each.began)
            if each.transport in POLLED and sight.seen >= unreadable_until:
                since = max(since, unreadable_until)
            stale = sight.seen - since
            if stale > verdict.stale_seconds:
                verdict.stale_seconds = stale
                verdict.stalest = f"{each.transport} {sight.event}"
        for drop in each.drops:
            (verdict.drops if drop.live else verdict.refusals).setdefault(each.transport, []).append(drop.why)
    for session_id, trail in trails.items():
        verdict.wrong += [f"trail {session_id}: {problem}" for problem in _trail_problems(trail, finished=finished)]
    return verdict


def _problems(each: Recorder, trail: Sequence[AuditEvent], *, finished: bool) -> Iterator[str]:
    seqs = [sight.seq for sight in each.sights]
    if seqs != sorted(set(seqs)):
        yield f"repeat or step back: {seqs}"
    if seqs and sorted(set(seqs)) != list(range(1, max(seqs) + 1)):
        yield f"gap: {seqs}"
    states = [seq for _, seq in each.snapshots]
    if states != sorted(states):
        yield f"an older state was shown after a newer one: {states}"
    happened = {event.seq: event for event in trail}
    for sight in each.sights:
        event = happened.get(sight.seq)
        if event is None:
            yield f"saw {sight.seq} {sight.event}, which never happened"
        elif (sight.event, sight.status) != (event.event.value, event.status.value):
            yield f"saw {sight.seq} {sight.event}, but it was {event.event}"
    if not finished:
        return
    if not trail:
        if each.outcome not in ("gone", "not found"):
            yield f"the session is gone, and it was told {each.outcome}"
    elif each.outcome != trail[-1].status.value:
        yield f"ended with {each.outcome}, the session with {trail[-1].status}"
    elif seqs != [event.seq for event in trail]:
        yield f"saw {seqs} of {len(trail)} transitions"


def _trail_problems(trail: Sequence[AuditEvent], *, finished: bool) -> Iterator[str]:
    if [event.seq for event in trail] != list(range(1, len(trail) + 1)):
        yield f"its seqs are {[event.seq for event in trail]}"
    ends = [event for event in trail if event.status.terminal]
    if len(ends) > 1 or (ends and ends[0] is not trail[-1]):
        yield f"it went on after its end: {[str(event.event) for event in trail]}"
    if finished and trail and not ends:
        yield f"it has not ended: {[str(event.event) for event in trail]}"


@contextlib.asynccontextmanager
async def http_client(limit: int = 1000) -> AsyncIterator[httpx.AsyncClient]:
    """For all recorders together."""
    limits = httpx.Limits(max_connections=limit, max_keepalive_connections=100)
    async with httpx.AsyncClient(trust_env=False, timeout=10, limits=limits) as client:
        yield client
