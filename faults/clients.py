"""The clients of a row: they upload, follow over each transport in turn, and cancel."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx

from faults.outcome import Attempt, Outcome
from server.chaos.following import Screen
from server.chaos.http import Network
from server.chaos.records import Accepted, Closed, Recorder, Refused
from server.domain.tokens import new_token
from server.system.clock import SystemClock
from testkit.photos import photo
from tryon.client.connection import Access
from tryon.protocol.backoff import TRANSPORTS
from tryon.protocol.paths import SESSIONS

POLL_SECONDS: Final = 0.25
"""Interval between two polls of a client, which is part of its staleness."""

SETTLE_SECONDS: Final = 90.0
"""Longest time from the end of a fault to the end of all sessions."""

UPLOAD_SECONDS: Final = 30.0
"""Longest that a client waits for the answer to an upload or a cancel."""


async def until(true: Callable[[], Any], seconds: float = SETTLE_SECONDS) -> None:
    """Wait for a condition that no event announces. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


class Clients:
    """Every client of a row, and the record of what each of them met with."""

    def __init__(self, url: str, http: httpx.AsyncClient, outcome: Outcome, choice: random.Random) -> None:
        self.url = url
        self.http = http
        self.network = Network(url)
        self.record = Recorder()
        self.screens: list[Screen] = []
        self.made: list[dict[str, Any]] = []
        """Every session that was accepted, as the 201 showed it."""
        self._outcome = outcome
        self._choice = choice
        self._turns = itertools.cycle(TRANSPORTS)
        self._uploading: list[asyncio.Task[Any]] = []
        self._following: list[asyncio.Task[str]] = []

    def __repr__(self) -> str:
        return f"<Clients of {self.url}: {len(self.made)} sessions, {len(self.screens)} screens>"

    @property
    def accepted(self) -> list[str]:
        return [session["session_id"] for session in self.made]

    async def upload(
        self, *, seconds: float = 0.2, patient: bool = True, **params: Any
    ) -> tuple[dict[str, Any], str] | None:
        """Return a new session and its owner's token, made as the browser makes them.

        It sends the same Idempotency-Key until an answer is not "come back later". None
        for the first refusal, if not ``patient``.
        """
        token, key = new_token(), secrets.token_hex(16)
        pause = 0.25
        while True:
            attempt, answer = await self._attempt(token, key, {"seconds": seconds} | params)
            self._outcome.uploads.append(attempt)
            if answer is not None and attempt.status == 201:
                return self._accepted(answer.json(), token, key), token
            self.record(Refused(t=time.time(), owner=token, call="upload", status=attempt.status, code=attempt.why))
            if not patient:
                return None
            pause = min(2.0, pause * 2)
            await asyncio.sleep(
                attempt.retry_after if attempt.retry_after is not None else self._choice.random() * pause
            )

    async def _attempt(self, token: str, key: str, params: dict[str, Any]) -> tuple[Attempt, httpx.Response | None]:
        began, clock = time.time(), time.monotonic()
        try:
            answer = await self.http.post(
                self.url + SESSIONS,
                files={"image": photo()},
                data={"params": json.dumps(params)},
                headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
                timeout=UPLOAD_SECONDS,
            )
        except httpx.HTTPError as error:
            return Attempt(began, time.monotonic() - clock, 0, type(error).__name__), None
        seconds = time.monotonic() - clock
        hint = answer.headers.get("Retry-After")
        why = "" if answer.status_code == 201 else answer.json()["code"]
        return Attempt(began, seconds, answer.status_code, why, None if hint is None else float(hint)), answer

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
        """Start to follow a session, over the next transport unless one is given."""
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

    async def live(self) -> None:
        """Wait until all screens so far are connected or have ended."""
        for each in self.screens:
            await until(lambda each=each: each.connected or each.outcome is not None)  # type: ignore[misc]

    def lost(self, since: float) -> list[Screen]:
        """Return the screens that lost a connection or were refused one.

        ``since``: Unix seconds.
        """
        ends = [each for each in self.record.records if isinstance(each, Closed) and each.t >= since]
        names = {each.client for each in ends if each.code not in (1000, 204)}
        return [screen for screen in self.screens if screen.client in names]

    @contextlib.asynccontextmanager
    async def load(self, rate: float, *, longest: float = 2.0, cancelled: float = 0.4) -> AsyncIterator[None]:
        """Upload while the block runs, and follow over the transports in turn.

        One session for each transport comes at once, then ``rate`` a second. They take
        up to ``longest`` seconds; a share is cancelled before, so that something
        happens also where no worker can.
        """
        pushing = asyncio.create_task(self._push(rate, longest, cancelled), name="load")
        try:
            yield
        finally:
            pushing.cancel()
            await asyncio.wait([pushing])

    async def _push(self, rate: float, longest: float, cancelled: float) -> None:
        for number in itertools.count(1):
            cancel_after = self._choice.uniform(0.2, longest) if self._choice.random() < cancelled else None
            seconds = self._choice.uniform(0.2, longest)
            self._uploading.append(asyncio.create_task(self._one(seconds, cancel_after), name="upload"))
            if number > len(TRANSPORTS):
                await asyncio.sleep(self._choice.uniform(0.5, 1.5) / rate)

    async def _one(self, seconds: float, cancel_after: float | None) -> None:
        made = await self.upload(seconds=seconds)
        assert made is not None
        self.follow(*made)
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            await self.cancel(*made)

    async def cancel(self, session: dict[str, Any], token: str) -> None:
        """Cancel a session once; whether that was possible is the product's to say."""
        id = session["session_id"]
        status, code = 0, ""
        with contextlib.suppress(httpx.HTTPError):
            answer = await self.http.post(
                f"{self.url}{SESSIONS}/{id}/cancel",
                headers={"Authorization": f"Bearer {token}"},
                timeout=UPLOAD_SECONDS,
            )
            status = answer.status_code
            if status not in (200, 202):
                code = answer.json()["code"]
        self._outcome.cancels[status] += 1
        if status not in (200, 202):
            self.record(Refused(t=time.time(), owner=token, call="cancel", status=status, code=code))

    async def finish(self) -> int:
        """Wait for uploads and screens; return the number of uploads never accepted.

        It waits for :data:`SETTLE_SECONDS` at most.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.gather(*self._uploading)
                await asyncio.gather(*self._following)
        never = sum(not task.done() for task in self._uploading)
        for task in (*self._uploading, *self._following):
            task.cancel()
        return never

    async def close(self) -> None:
        """Cancel whatever still runs, and await its end."""
        for task in (*self._uploading, *self._following):
            task.cancel()
        await asyncio.gather(*self._uploading, *self._following, return_exceptions=True)
