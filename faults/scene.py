"""What is the same in every row: a cluster under a steady load of uploads and
followers, and what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from server.chaos.checker import check
from server.chaos.following import Screen
from server.chaos.http import Network
from server.chaos.records import Accepted, Audit, Closed, Recorder, Refused, Transition
from server.chaos.verdict import Loss, Sight
from server.domain.session import AuditEvent, Session, timestamp
from server.domain.tokens import new_token
from server.system.clock import SystemClock
from testkit.cluster import Cluster, running_cluster
from testkit.photos import photo
from testkit.profiles import FAULTS
from testkit.programs import Program
from tryon.client.connection import Access
from tryon.protocol.backoff import TRANSPORTS
from tryon.protocol.paths import SESSIONS
from tryon.protocol.states import Event, Status

PUSHED: Final = frozenset({"ws", "sse"})
POLLED: Final = frozenset(TRANSPORTS) - PUSHED
POLL_SECONDS: Final = 0.25
"""Between two polls of a client: up to so much of its staleness is its own."""

SETTLE_SECONDS: Final = 90.0
"""How long everything may take to end once a fault is over.

Nothing comes near it when all is well.
"""

UPLOAD_SECONDS: Final = 30.0
"""A client waits so long for the answer to what it wants done."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a fault lasts and how large it is: in full, with the product's own
    defaults, or scaled down for the tests.

    ``slack``: by how much a promised time may be exceeded before a row fails; tests
    share their machine with others.
    """

    settings: dict[str, Any]
    outage_seconds: float
    frozen_seconds: float
    locked_seconds: float
    lease_seconds: float
    ping_seconds: float
    sockets: int
    stalled: int
    slack: float
    seed: int = 1

    def rng(self) -> random.Random:
        return random.Random(self.seed)


FULL: Final = Pace(
    settings={},
    outage_seconds=10.0,
    frozen_seconds=30.0,
    locked_seconds=10.0,
    lease_seconds=12.0,
    ping_seconds=25.0,
    sockets=1000,
    stalled=50,
    slack=1.0,
)
SCALED: Final = Pace(
    settings={"lease_seconds": 2, "ping_seconds": 3, "drain_seconds": 1},
    outage_seconds=4.0,
    frozen_seconds=8.0,
    locked_seconds=3.0,
    lease_seconds=2.0,
    ping_seconds=3.0,
    sockets=200,
    stalled=10,
    slack=3.0,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to upload: when it began (Unix seconds), how long it took, what came (0:
    no answer) and when to try again.
    """

    began: float
    seconds: float
    status: int
    why: str = ""
    retry_after: float | None = None


@dataclass
class Outcome:
    """What one run of a row came to.

    ``wrong``: every promise that was broken, in words; empty is good.
    """

    stale_seconds: float = 0.0
    stalest: str = ""
    recovery_seconds: float | None = None
    losses: Counter[Loss] = field(default_factory=Counter)
    sessions: int = 0
    uploads: list[Attempt] = field(default_factory=list)
    cancels: Counter[int] = field(default_factory=Counter)
    """By HTTP status; 0: no answer."""
    sights: list[Sight] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        return sum(each.status == 201 for each in self.uploads)

    @property
    def refused(self) -> int:
        return sum(each.status not in (0, 201) for each in self.uploads)

    @property
    def unanswered(self) -> int:
        return sum(each.status == 0 for each in self.uploads)

    @property
    def slowest_upload(self) -> float:
        return max((each.seconds for each in self.uploads if each.status == 201), default=0.0)

    @property
    def cut(self) -> int:
        """Streams that ended before their session."""
        return sum(count for loss, count in self.losses.items() if loss.over in PUSHED and loss.live)

    @property
    def told_to_wait(self) -> int:
        """Polls that were not answered with the session."""
        return sum(count for loss, count in self.losses.items() if loss.over in POLLED)

    def saw(self) -> str:
        """What the clients met with, in a few words."""
        parts = [f"{self.cut} streams cut" if self.cut else "no stream cut"]
        if self.told_to_wait:
            parts.append(f"{self.told_to_wait} polls refused")
        if self.uploads:
            parts.append(f"{self.accepted} uploads 201, the slowest after {self.slowest_upload:.2f} s")
        if self.refused:
            codes = ", ".join(
                sorted({f"{each.status} {each.why}" for each in self.uploads if each.status not in (0, 201)})
            )
            parts.append(f"{self.refused} times told {codes}")
        if self.unanswered:
            parts.append(f"{self.unanswered} cut off and sent again")
        return "; ".join([*parts, *self.notes])


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the fault matrix.

    ``fault``: what happens, for the table. ``tested``: also by ``./test``, scaled down.
    """

    fault: str
    run: Callable[[Pace], Awaitable[Outcome]]
    tested: bool = True


class Scene:
    """A cluster and its clients.

    Everything that a row asks of them goes through here, and is written down.
    """

    def __init__(self, cluster: Cluster, http: httpx.AsyncClient, pace: Pace) -> None:
        self.cluster = cluster
        self.http = http
        self.pace = pace
        self.outcome = Outcome()
        self.record = Recorder()
        self.screens: list[Screen] = []
        self.made: list[dict[str, Any]] = []
        """Every session that was accepted, as the 201 showed it."""
        self.props: list[str] = []
        """Sessions that a row made itself, past HTTP, and that need not end."""
        self.random = pace.rng()
        self.began_at = 0.0
        self.repaired_at = 0.0
        """When the fault began and was over (Unix seconds)."""
        self._repaired = 0.0
        self._turns = itertools.cycle(TRANSPORTS)
        self._tasks: list[asyncio.Task[Any]] = []
        self._following: list[asyncio.Task[str]] = []
        self.network = Network(cluster.url)

    @property
    def accepted(self) -> list[str]:
        return [session["session_id"] for session in self.made]

    # -- promises ----------------------------------------------------------------------

    def expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.outcome.wrong.append(otherwise)

    def within(self, seconds: float, limit: float, what: str, *, most_slack: float = float("inf")) -> None:
        """Hold a measured time against what is promised."""
        self.expect(seconds <= limit * min(self.pace.slack, most_slack), f"{what}: {seconds:.2f} s, promised {limit:g}")

    def note(self, text: str) -> None:
        self.outcome.notes.append(text)

    # -- clients -----------------------------------------------------------------------

    async def upload(
        self, *, seconds: float = 0.2, patient: bool = True, **params: Any
    ) -> tuple[dict[str, Any], str] | None:
        """A session and its owner's token, as the browser gets one: the same
        Idempotency-Key until there is an answer that is not "come back later". None, if
        not ``patient``, for the first refusal.
        """
        token, key = new_token(), secrets.token_hex(16)
        pause = 0.25
        while True:
            began, clock = time.time(), time.monotonic()
            answer: httpx.Response | None = None
            try:
                answer = await self.http.post(
                    self.cluster.url + SESSIONS,
                    files={"image": photo()},
                    data={"params": json.dumps({"seconds": seconds} | params)},
                    headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
                    timeout=UPLOAD_SECONDS,
                )
                hint = answer.headers.get("Retry-After")
                attempt = Attempt(
                    began,
                    time.monotonic() - clock,
                    answer.status_code,
                    "" if answer.status_code == 201 else answer.json()["code"],
                    None if hint is None else float(hint),
                )
            except httpx.HTTPError as error:
                attempt = Attempt(began, time.monotonic() - clock, 0, type(error).__name__)
            self.outcome.uploads.append(attempt)
            if answer is not None and attempt.status == 201:
                return self._accepted(answer.json(), token, key), token
            self.record(Refused(t=time.time(), owner=token, call="upload", status=attempt.status, code=attempt.why))
            if not patient:
                return None
            pause = min(2.0, pause * 2)
            await asyncio.sleep(
                attempt.retry_after if attempt.retry_after is not None else self.random.random() * pause
            )

    def _accepted(self, session: dict[str, Any], token: str, key: str) -> dict[str, Any]:
        self.made.append(session)
        self.record(
            Accepted(
                t=time.time(),
                owner=token,
                key=key,
                session=session["session_id"],
                expires_at=session["expires_at"],
            )
        )
        return session

    def follow(self, session: dict[str, Any], token: str, over: str | None = None) -> Screen:
        number = len(self.screens) + 1
        screen = Screen(
            self.network,
            self.record,
            client=f"c{number}",
            owner=token,
            session=session["session_id"],
            over=over or next(self._turns),
            opened_by=Access(token=token),
            number=number,
            choice=random.Random(number),
            clock=SystemClock(),
            poll_seconds=POLL_SECONDS,
        )
        self.screens.append(screen)
        self._following.append(asyncio.create_task(screen.run(), name=repr(screen)))
        return screen

    async def live(self, screens: Sequence[Screen] | None = None) -> None:
        """Wait until these, or all so far, are connected or have ended."""
        for each in self.screens if screens is None else screens:
            await self.until(lambda each=each: each.connected or each.outcome is not None)  # type: ignore[misc]

    async def until(self, true: Callable[[], Any], seconds: float = SETTLE_SECONDS) -> None:
        """Wait for what nobody announces. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def load(self, rate: float, *, longest: float = 2.0, cancelled: float = 0.4) -> AsyncIterator[None]:
        """While open: one upload for each transport at once, then ``rate`` a second,
        each followed over the next. They take up to ``longest`` seconds; a share is
        cancelled before, so that something happens also where no worker can.
        """
        pushing = asyncio.create_task(self._push(rate, longest, cancelled), name="load")
        try:
            yield
        finally:
            pushing.cancel()
            await asyncio.wait([pushing])

    async def _push(self, rate: float, longest: float, cancelled: float) -> None:
        for number in itertools.count(1):
            cancel_after = self.random.uniform(0.2, longest) if self.random.random() < cancelled else None
            seconds = self.random.uniform(0.2, longest)
            self._tasks.append(asyncio.create_task(self._one(seconds, cancel_after), name="upload"))
            if number > len(TRANSPORTS):
                await asyncio.sleep(self.random.uniform(0.5, 1.5) / rate)

    async def _one(self, seconds: float, cancel_after: float | None) -> None:
        made = await self.upload(seconds=seconds)
        assert made is not None
        self.follow(*made)
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            await self.cancel(*made)

    async def cancel(self, session: dict[str, Any], token: str) -> None:
        """Cancel it once; whether that was possible is the product's to say."""
        id = session["session_id"]
        status, code = 0, ""
        with contextlib.suppress(httpx.HTTPError):
            answer = await self.http.post(
                f"{self.cluster.url}{SESSIONS}/{id}/cancel",
                headers={"Authorization": f"Bearer {token}"},
                timeout=UPLOAD_SECONDS,
            )
            status = answer.status_code
            if status not in (200, 202):
                code = answer.json()["code"]
        self.outcome.cancels[status] += 1
        if status not in (200, 202):
            self.record(Refused(t=time.time(), owner=token, call="cancel", status=status, code=code))

    # -- the fault and its end ---------------------------------------------------------

    async def outage(self, seconds: float) -> None:
        """Let the fault last.

        The one place that waits for time to pass: it is what is measured.
        """
        await asyncio.sleep(seconds)

    def began(self) -> None:
        """Now the fault begins."""
        self.began_at = time.time()

    def repaired(self) -> None:
        """Now the fault is over: what is slow from here on is the product's recovery."""
        self.repaired_at, self._repaired = time.time(), time.monotonic()

    def lost(self) -> list[Screen]:
        """Who lost a connection, or was given none, since then."""
        ends = [each for each in self.record.records if isinstance(each, Closed) and each.t >= self.repaired_at]
        names = {each.client for each in ends if each.code not in (1000, 204)}
        return [screen for screen in self.screens if screen.client in names]

    async def healthy(self, *checks: str, limit: float = SETTLE_SECONDS) -> None:
        """Wait until these checks of ``/api/health`` say ok."""
        async with asyncio.timeout(limit):
            while True:
                with contextlib.suppress(httpx.HTTPError, ValueError):
                    answer = await self.http.get(f"{self.cluster.url}/api/health", timeout=5)
                    told = answer.json()["checks"]
                    if all(told[check]["status"] == "ok" for check in checks):
                        return
                await asyncio.sleep(0.05)

    async def metric(self, name: str) -> float:
        """Of the web process that answers, over all labels that the name does not
        choose.
        """
        text = (await self.http.get(f"{self.cluster.url}/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def recovered(self) -> None:
        """Now everything is as before."""
        self._recovered(time.monotonic() - self._repaired)

    def _recovered(self, seconds: float) -> None:
        self.outcome.recovery_seconds = max(self.outcome.recovery_seconds or 0.0, seconds)

    # -- the end -----------------------------------------------------------------------

    async def finish(self, *, unreadable: bool = False, orphans: bool = False) -> None:
        """Wait until every session and every client has ended, and check what they saw.

        What is on the disk and in the database must be exactly the sessions that were
        accepted.

        ``unreadable``: the fault was that nobody could read the database. ``orphans``:
        photos may be left whose upload was killed before its commit; the cleanup takes
        them.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.gather(*self._tasks)
                await asyncio.gather(*self._following)
        never = sum(not task.done() for task in self._tasks)
        self.expect(not never, f"{never} uploads were never accepted")
        for task in (*self._tasks, *self._following):
            task.cancel()
        trails = await self.trails()
        for session_id, trail in trails.items():
            self.record(Audit(t=time.time(), session=session_id, events=[_transition(event) for event in trail]))
        verdict = check(self.record.records)
        out = self.outcome
        out.wrong += [f"{each.kind}: {each.session} {each.client}: {each.detail}" for each in verdict.findings]
        for sight in verdict.sights:
            stale = self._stale(sight, unreadable=unreadable)
            if stale > out.stale_seconds:
                out.stale_seconds, out.stalest = stale, f"{sight.over} {sight.status}"
        out.sights, out.losses = verdict.sights, verdict.losses
        out.sessions = len(trails)
        await self._nothing_else(orphans=orphans)

    def _stale(self, sight: Sight, *, unreadable: bool) -> float:
        """While nobody could ask the database, what is polled could not be answered: it
        is stale from then on.
        """
        if unreadable and sight.over in POLLED and sight.t >= self.repaired_at:
            return min(sight.stale, sight.t - self.repaired_at)
        return sight.stale

    async def trails(self) -> dict[str, list[AuditEvent]]:
        async with self.cluster.services() as services:
            found: dict[str, list[AuditEvent]] = {}
            for start in range(0, len(self.accepted), 100):
                stories = await services.database.reading.many_with_events(self.accepted[start : start + 100], 0)
                found |= {session_id: story.events for session_id, story in stories.items()}
        return found

    async def sessions(self) -> list[Session]:
        """Everything that has a row."""
        async with self.cluster.services() as services:
            return [session async for session in _all(services.database.connections.engine)]

    async def _nothing_else(self, *, orphans: bool) -> None:
        """No row and no file but those of accepted sessions.

        What is undecided is looked at again within seconds.
        """
        left: set[str] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(15):
                while left := {
                    each for each in await self._strangers() if not (orphans and each.startswith("inputs/"))
                }:
                    await asyncio.sleep(0.2)
        self.outcome.wrong += [f"left over: {each}" for each in left]

    async def _strangers(self) -> set[str]:
        sessions = await self.sessions()
        rows = {session.id for session in sessions} - {*self.accepted, *self.props}
        named = {key for session in sessions for key in session.file_keys}
        uploads = self.cluster.data / "uploads"
        files = {
            str(path.relative_to(uploads)) for folder in ("inputs", "outputs") for path in (uploads / folder).iterdir()
        }
        return rows | (files - named)

    def taken_up_by(self, trails: dict[str, list[AuditEvent]]) -> None:
        """Recovery: until the last of those that were accepted before the end of the
        fault was taken up, or ended.
        """
        for trail in trails.values():
            if trail and trail[0].at.timestamp() < self.repaired_at:
                moved = next((event for event in trail if event.event is not Event.CREATED), None)
                if moved is not None and moved.at.timestamp() > self.repaired_at:
                    self._recovered(moved.at.timestamp() - self.repaired_at)

    # -- promises that many rows share -------------------------------------------------

    def nobody_was_cut(self) -> None:
        """No connection was lost, and every new one came about."""
        self.expect(not self.outcome.losses, f"clients were cut off: {_told(self.outcome.losses)}")

    def streams_stayed(self) -> None:
        """Whoever was connected stayed so; who polls, or comes anew, may be told to
        come back.
        """
        cut = Counter({loss: count for loss, count in self.outcome.losses.items() if loss.over in PUSHED and loss.live})
        self.expect(not cut, f"streams were cut off: {_told(cut)}")

    def losses_were_honest(self) -> None:
        """Whoever lost a connection, or was not given one, was told that there is no
        service now. A poll may have heard nothing until its time was over.
        """
        for loss, count in self.outcome.losses.items():
            allowed = {503, 1006} if loss.over in POLLED else {503, 4053}
            self.expect(loss.code in allowed, f"{count} x {loss.over} was cut off or refused by {loss.code}")

    def cancels_were_honest(self) -> None:
        dishonest = {status: count for status, count in self.outcome.cancels.items() if status not in (200, 202, 503)}
        self.expect(not dishonest, f"cancels were answered {dishonest}")

    def was_felt(self, seconds: float) -> None:
        """Somebody was refused, or waited for so long: else nothing was broken."""
        told = self.outcome.refused + self.outcome.told_to_wait + self.outcome.cancels[503]
        self.expect(told > 0 or self.outcome.slowest_upload >= seconds, "nobody was refused, and nobody waited")

    def pushed_meanwhile(self, limit: float) -> None:
        """What was committed during the fault was pushed all the same, and soon.

        Not what a first snapshot shows.
        """
        times = [
            sight.stale
            for sight in self.outcome.sights
            if sight.over in PUSHED
            and sight.status != Status.CREATED
            and self.began_at <= sight.t - sight.late <= self.repaired_at
        ]
        self.expect(bool(times), "nothing was pushed during the fault")
        self.within(
            max(times, default=0.0), limit, "the latest push of what happened during the fault", most_slack=1.25
        )
        self.note(f"{len(times)} pushes during the fault, the latest after {max(times, default=0.0):.2f} s")

    def uploads_were_taken(self, limit: float = 2.0) -> None:
        """Every one a 201, and soon."""
        for each in self.outcome.uploads:
            self.expect(each.status == 201, f"an upload got {each.status} {each.why} after {each.seconds:.2f} s")
        self.within(self.outcome.slowest_upload, limit, "the slowest upload")

    def refusals_were_honest(self, *statuses: int) -> None:
        """What was not a 201 was one of these, with a Retry-After."""
        for each in self.outcome.uploads:
            if each.status != 201:
                self.expect(
                    each.status in statuses and each.retry_after is not None,
                    f"an upload got {each.status} {each.why}, Retry-After {each.retry_after}",
                )

    def nobody_seemed_dead(self, trails: dict[str, list[AuditEvent]]) -> None:
        """No worker was taken for dead: what ran went on running."""
        lost = [
            event.session_id for trail in trails.values() for event in trail if event.data.get("reason") == "lease_lost"
        ]
        self.expect(not lost, f"{len(lost)} running sessions were taken from their living worker: {lost}")

    def survived(self, *programs: Program) -> None:
        for program in programs:
            self.expect(program.running, f"{program.name} ended with {program.process.returncode}")

    def fresh(self, limit: float = 5.0) -> None:
        self.within(self.outcome.stale_seconds, limit, f"the stalest sight ({self.outcome.stalest})")


def _transition(event: AuditEvent) -> Transition:
    return Transition(
        event.seq,
        event.event.value,
        event.from_status and event.from_status.value,
        event.status.value,
        timestamp(event.at),
    )


def _told(losses: Counter[Loss]) -> str:
    return ", ".join(
        f"{count} x {loss.over} {'lost' if loss.live else 'refused'} {loss.code}" for loss, count in losses.items()
    )


async def _all(engine: Any) -> AsyncIterator[Session]:
    from sqlalchemy import select

    from server.adapters.database.rows import SESSION_COLUMNS, to_session

    async with engine.connect() as connection:
        for row in (await connection.execute(select(*SESSION_COLUMNS))).all():
            yield to_session(row)


@contextlib.asynccontextmanager
async def running_scene(pace: Pace, **cluster: Any) -> AsyncIterator[Scene]:
    """A cluster with the paced processor, and its clients.

    Logs are shown when something was wrong.
    """
    settings = FAULTS | {"processor": "testkit.paced:Paced"} | pace.settings | cluster
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
    async with (
        running_cluster(**settings) as running,
        httpx.AsyncClient(trust_env=False, timeout=10, limits=limits) as http,
    ):
        scene = Scene(running, http, pace)
        try:
            yield scene
        except BaseException:
            _show_logs(running)
            raise
        finally:
            for task in (*scene._tasks, *scene._following):
                task.cancel()
            await asyncio.gather(*scene._tasks, *scene._following, return_exceptions=True)
        if scene.outcome.wrong:
            _show_logs(running)


def _show_logs(cluster: Cluster) -> None:
    for log in sorted(cluster.logs.iterdir()):
        lines = log.read_text(errors="replace").splitlines()
        print(f"--- {log.name}", *_telling(lines), sep="\n", file=sys.stderr)


def _telling(lines: Collection[str]) -> Iterator[str]:
    """The last of what is out of the ordinary."""
    usual = (
        "GET ",
        "POST ",
        "Completed ",
        "Session state transition",
        "Processing session",
        "Saved input",
        "Created session",
    )
    return iter([line for line in lines if not any(each in line for each in usual)][-40:])


def terminal(trail: Sequence[AuditEvent]) -> Status | None:
    return trail[-1].status if trail and trail[-1].status.terminal else None
