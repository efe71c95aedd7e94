"""The common part of every row: a cluster, a steady load, and the checks at the end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import Any, Final

import httpx

from faults import evidence, form
from faults.clients import SETTLE_SECONDS, Clients, until
from faults.outcome import POLLED, Outcome
from faults.pace import Pace
from faults.promises import Promises
from server.chaos.checker import check
from server.chaos.following import Screen
from server.chaos.records import Audit
from server.chaos.verdict import Sight
from server.domain.session import AuditEvent, Session
from testkit.cluster import Cluster, running_cluster
from testkit.profiles import FAULTS

ORDINARY: Final = (
    "GET ",
    "POST ",
    "Completed ",
    "Session state transition",
    "Processing session",
    "Saved input",
    "Created session",
)
"""Parts of the log lines that every run has."""


class Scene:
    """A cluster, its clients, and the times at which the fault began and was over."""

    def __init__(self, cluster: Cluster, http: httpx.AsyncClient, pace: Pace) -> None:
        self.cluster = cluster
        self.http = http
        self.outcome = Outcome()
        self.clients = Clients(cluster.url, http, self.outcome, pace.rng())
        self.promises = Promises(self.outcome, pace)
        self.props: list[str] = []
        """Sessions that a row made itself, past HTTP, and that need not end."""
        self._repaired = 0.0

    def __repr__(self) -> str:
        return f"<Scene {self.cluster!r} {self.clients!r} {self.promises!r}>"

    @property
    def screens(self) -> list[Screen]:
        return self.clients.screens

    async def submit(self, *, seconds: float = 0.2, over: str | None = None, **params: Any) -> Screen:
        """Upload a session that takes this long, and follow it."""
        made = await self.clients.upload(seconds=seconds, **params)
        assert made is not None
        return self.clients.follow(*made, over)

    async def until(self, true: Callable[[], Any], seconds: float = SETTLE_SECONDS) -> None:
        """Wait for a condition that no event announces. Raises TimeoutError."""
        await until(true, seconds)

    def expect(self, true: bool, otherwise: str) -> None:
        """Note a broken promise unless the condition is true."""
        self.promises.expect(true, otherwise)

    def note(self, text: str) -> None:
        """Add a remark to the row's line of the matrix."""
        self.outcome.notes.append(text)

    # -- the fault and its end ---------------------------------------------------------

    async def outage(self, seconds: float) -> None:
        """Let the fault last.

        The one place that waits for time to pass: it is what is measured.
        """
        await asyncio.sleep(seconds)

    def began(self) -> None:
        """Note that the fault begins."""
        self.promises.fault = (time.time(), self.promises.fault[1])

    def repaired(self) -> None:
        """Note that the fault is over: delays from here on are recovery."""
        self.promises.fault = (self.promises.fault[0], time.time())
        self._repaired = time.monotonic()

    @property
    def repaired_at(self) -> float:
        """Unix seconds of the end of the fault."""
        return self.promises.fault[1]

    def recovered(self) -> None:
        """Note that everything is as before."""
        self.outcome.recovered_after(time.monotonic() - self._repaired)

    async def healthy(self, *checks: str, limit: float = SETTLE_SECONDS) -> None:
        """Wait until these checks of ``/api/health`` say ok.

        Each web process behind a balancer must say so.
        """
        async with asyncio.timeout(limit):
            while not (urls := self.cluster.inner_urls) or not all([await self._ok(url, checks) for url in urls]):
                await asyncio.sleep(0.05)

    async def _ok(self, url: str, checks: Collection[str]) -> bool:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answered = (await self.http.get(f"{url}/api/health", timeout=5)).json()["checks"]
            return all(answered[check]["status"] == "ok" for check in checks)
        return False

    async def metric(self, name: str) -> float:
        """Return a metric of the web process that answers, or of all behind a balancer.

        It is summed over all labels that the name does not choose.
        """
        texts = [(await self.http.get(f"{url}/metrics")).text for url in self.cluster.inner_urls]
        lines = [line for text in texts for line in text.splitlines()]
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    # -- the end -----------------------------------------------------------------------

    async def finish(self, *, unreadable: bool = False, orphans: bool = False) -> None:
        """Wait until every session and every client has ended, and check what they saw.

        The disk and the database must hold exactly the sessions that were accepted.
        ``unreadable``: the fault was that the database could not be read. ``orphans``:
        files may be left whose commit a process did not await when it ended: photos,
        which the cleanup deletes, and results of accepted sessions, which are deleted
        with them.
        """
        never = await self.clients.finish()
        self.expect(not never, f"{never} uploads were never accepted")
        trails = await self.trails()
        record = self.clients.record
        for session_id, trail in trails.items():
            events = [evidence.transition(event) for event in trail]
            record(Audit(t=time.time(), session=session_id, events=events))
        verdict = check(record.records)
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
        """Return the staleness of a sight.

        A poll of an unreadable database is stale from the end of the fault on only.
        """
        if unreadable and sight.over in POLLED and sight.t >= self.repaired_at:
            return min(sight.stale, sight.t - self.repaired_at)
        return sight.stale

    async def trails(self) -> dict[str, list[AuditEvent]]:
        """Return the audit trail of every accepted session."""
        return await evidence.trails(self.cluster, self.clients.accepted)

    async def sessions(self) -> list[Session]:
        """Return every session that has a row."""
        return await evidence.sessions(self.cluster)

    async def _nothing_else(self, *, orphans: bool) -> None:
        """Expect no row and no file but those of accepted sessions.

        The product looks at an undecided upload again within seconds.
        """
        left: set[str] = set()
        known = {*self.clients.accepted, *self.props}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(15):
                while left := {
                    each
                    for each in await evidence.strangers(self.cluster, known)
                    if not (orphans and (each.startswith("inputs/") or _session_of(each) in known))
                }:
                    await asyncio.sleep(0.2)
        self.outcome.wrong += [f"left over: {each}" for each in left]


@contextlib.asynccontextmanager
async def running_scene(pace: Pace, **cluster: Any) -> AsyncIterator[Scene]:
    """Run a cluster with the paced processor, and its clients.

    Logs are shown when something was wrong.
    """
    settings = FAULTS | {"processor": "testkit.paced:Paced"} | pace.settings | form.chosen() | cluster
    # A connection for each request: one that is kept may lose a request that is sent at
    # the very moment when a stopping server closes it, and HTTP/1.1 cannot help that
    # (RFC 9112, section 9.3.1).
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=0)
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
            await scene.clients.close()
        if scene.outcome.wrong:
            _show_logs(running)


def _session_of(file: str) -> str:
    """Return the id of the session to which a result belongs, from its path."""
    return file.removeprefix("outputs/")[:36]


def _show_logs(cluster: Cluster) -> None:
    for log in sorted(cluster.logs.iterdir()):
        lines = log.read_text(errors="replace").splitlines()
        print(f"--- {log.name}", *_unusual(lines), sep="\n", file=sys.stderr)


def _unusual(lines: Collection[str]) -> Iterator[str]:
    """Return the last of the lines that not every run has."""
    return iter([line for line in lines if not any(part in line for part in ORDINARY)][-40:])
