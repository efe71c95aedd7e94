"""One person with one photo, and strangers.

A person uploads the photo until it is accepted, follows the session to its end, and
does what the plan says besides. Strangers try every door of another owner's session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from server.chaos.following import UNREADABLE, Record, Screen, transition
from server.chaos.http import Network
from server.chaos.plans import Plan, picture_size
from server.chaos.records import (
    Accepted,
    Asked,
    Audit,
    Closed,
    Did,
    GaveUp,
    Listed,
    Refused,
    Remains,
    Result,
    Snapshot,
    Stranger,
    Trouble,
)
from server.domain.tokens import new_token
from server.system.clock import Clock
from tryon.client.connection import Access
from tryon.client.network import Answer, NoAnswer, SocketClosed, SocketRefused
from tryon.protocol.backoff import FIRST_SECONDS, OPEN_SECONDS
from tryon.protocol.paths import SESSIONS

MOST_PAUSE_SECONDS: Final = 5.0
"""Longest pause before a call is repeated, unless the answer names one."""

DOORS: Final[Mapping[str, tuple[str, str]]] = {
    "get": ("GET", ""),
    "long poll": ("GET", "?since=0&wait=1"),
    "history": ("GET", "/history"),
    "events": ("GET", "/events"),
    "cancel": ("POST", "/cancel"),
    "retry": ("POST", "/retry"),
    "delete": ("DELETE", ""),
    "ws": ("", "/ws"),
}
"""Every way to another owner's session: the method, and the end of the path."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that all people share.

    ``patience``: seconds until a person gives up a call.
    """

    network: Network
    record: Record
    photos: Sequence[bytes]
    patience: float
    clock: Clock


class Person:
    """One person; owner and screens are named after its number."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self._choice = random.Random(plan.seed)
        self._token = new_token()
        self._key = secrets.token_urlsafe(16)
        self._line = world.network.line(plan.number)
        self._photo = world.photos[plan.number % len(world.photos)]
        self.owner = f"p{plan.number}"

    def __repr__(self) -> str:
        return f"<Person {self.owner}>"

    async def live(self) -> None:
        """Follow the plan; an answer that cannot be read ends it, and is recorded."""
        try:
            await self._live()
        except* UNREADABLE as errors:
            for error in errors.exceptions:
                self._world.record(Trouble(t=self._world.clock.wall(), who=self.owner, what=f"unreadable: {error!r}"))

    async def _live(self) -> None:
        plan = self._plan
        session = await self._upload()
        if session is None:
            return
        async with asyncio.TaskGroup() as group:
            outcome = group.create_task(self._follow(session, self.owner, plan.over[0]))
            for over in plan.over[1:]:
                group.create_task(self._second_screen(session, over))
            if plan.cancel_after is not None:
                group.create_task(self._cancel(session["session_id"], plan.cancel_after))
            if plan.delete_after is not None:
                group.create_task(self._delete(session, plan.delete_after))
            if plan.strangers:
                group.create_task(self._strangers(session["session_id"]))
        if outcome.result() == "completed":
            await self._look_at_pictures(session["session_id"])
        elif outcome.result() in ("failed", "cancelled") and plan.retries and plan.delete_after is None:
            again = await self._retry(session["session_id"])
            if again is not None:
                await self._follow(again, f"{self.owner}.again", self._choice.choice(plan.over))
        if plan.looks_back:
            await self._look_back(session["session_id"])
        if plan.delete_at_end and plan.delete_after is None:
            await self._delete(session, 0.0)

    # -- calls -------------------------------------------------------------------------

    async def _call(
        self,
        call: str,
        method: str,
        path: str,
        *,
        good: tuple[int, ...],
        session: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        cut: bool = False,
    ) -> Answer | None:
        """Return the first answer with a ``good`` status; record each refusal and wait.

        None: the person gave up, or the answer was one that repeating would not change.
        """
        until = self._world.clock.monotonic() + self._world.patience
        failures = 0
        while True:
            told: float | None = None
            try:
                answer = await self._line.request(
                    method,
                    SESSIONS + path,
                    headers={"Authorization": f"Bearer {self._token}", **(headers or {})},
                    body=body,
                    cut_after=self._choice.randrange(1, len(body)) if cut and failures == 0 else None,
                )
                status, code, told = answer.status, answer.code, answer.retry_after
                if status in good:
                    return answer
            except NoAnswer as error:
                status, code = 0, str(error)
            self._world.record(
                Refused(
                    t=self._world.clock.wall(), owner=self.owner, call=call, status=status, code=code, session=session
                )
            )
            if status and status not in (409, 429) and status < 500:
                return None  # it would be the same again
            failures += 1
            pause = told or self._choice.random() * min(MOST_PAUSE_SECONDS, FIRST_SECONDS * 2**failures)
            if self._world.clock.monotonic() + pause > until:
                self._world.record(GaveUp(t=self._world.clock.wall(), owner=self.owner, call=call))
                return None
            await asyncio.sleep(pause)

    async def _upload(self) -> dict[str, Any] | None:
        boundary = "tryon-chaos-0123456789abcdef"
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode() + self._photo
        params = json.dumps({"person": self._plan.number})
        body += f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{params}'.encode()
        body += f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Idempotency-Key": self._key}
        answer = await self._call(
            "upload", "POST", "", good=(201,), headers=headers, body=body, cut=self._plan.cut_upload
        )
        return None if answer is None else self._accepted(answer, self.owner)

    def _accepted(self, answer: Answer, key: str) -> dict[str, Any]:
        session: dict[str, Any] = answer.json()
        self._world.record(
            Accepted(
                t=self._world.clock.wall(),
                owner=self.owner,
                key=key,
                session=session["session_id"],
                expires_at=session["expires_at"],
                retry_of=session["retry_of"],
            )
        )
        return session

    async def _retry(self, session_id: str) -> dict[str, Any] | None:
        answer = await self._call("retry", "POST", f"/{session_id}/retry", good=(201,), session=session_id)
        return None if answer is None else self._accepted(answer, f"{self.owner}.again")

    async def _cancel(self, session_id: str, after: float) -> None:
        await asyncio.sleep(after)
        self._did("cancel", session_id)
        answer = await self._call("cancel", "POST", f"/{session_id}/cancel", good=(200, 202), session=session_id)
        if answer is not None:
            self._did("cancel", session_id, answer.status)

    async def _delete(self, session: Mapping[str, Any], after: float) -> None:
        """Delete a session, and look for anything that is left of it."""
        await asyncio.sleep(after)
        session_id = session["session_id"]
        self._did("delete", session_id)
        answer = await self._call("delete", "DELETE", f"/{session_id}", good=(200,), session=session_id)
        if answer is None:
            return
        self._did("delete", session_id, 200)
        client = f"{self.owner}.after"
        self._world.record(
            Asked(t=self._world.clock.wall(), client=client, owner=self.owner, session=session_id, over="poll", since=0)
        )
        look = await self._call("look", "GET", f"/{session_id}?since=0", good=(200, 404))
        if look is None:
            return
        if look.status == 200:
            seq, status = look.json()["seq"], look.json()["status"]
            missed = [transition(event) for event in look.json()["missed"]]
            self._world.record(
                Snapshot(
                    t=self._world.clock.wall(), client=client, session=session_id, seq=seq, status=status, missed=missed
                )
            )
        self._world.record(Closed(t=self._world.clock.wall(), client=client, session=session_id, code=look.status))
        with contextlib.suppress(NoAnswer):
            photo = await self._line.behind(session["links"]["input"])
            if photo.status == 200:
                self._world.record(Remains(t=self._world.clock.wall(), what="link", name=session["links"]["input"]))

    def _did(self, call: str, session_id: str, status: int = 0) -> None:
        self._world.record(
            Did(t=self._world.clock.wall(), owner=self.owner, session=session_id, call=call, status=status)
        )

    async def _look_at_pictures(self, session_id: str) -> None:
        """Fetch the result, perhaps the photo too, and record what they are."""
        answer = await self._call("look", "GET", f"/{session_id}", good=(200,), session=session_id)
        if answer is None:
            return
        session = answer.json()
        made_of_the_photo = session["processor"] == "mock"
        for role in ("output", "input") if self._plan.looks_back else ("output",):
            link = session["links"][role]
            if link is not None:
                own = picture_size(self._photo) if len(self._world.photos) > 1 else None
                await self._look_at(session_id, role, link, own if role == "input" or made_of_the_photo else None)

    async def _look_at(self, session_id: str, role: str, link: str, own: tuple[int, int] | None) -> None:
        for _ in range(3):
            with contextlib.suppress(NoAnswer):
                answer = await self._line.behind(link)
                if answer.status not in (429, 503):
                    size = picture_size(answer.body) if answer.status == 200 else None
                    result = Result(
                        t=self._world.clock.wall(),
                        session=session_id,
                        status=answer.status,
                        role=role,
                        bytes=len(answer.body),
                        size=size,
                        own=own,
                    )
                    self._world.record(result)
                    return
            await asyncio.sleep(1)

    async def _look_back(self, session_id: str) -> None:
        """Record the list of this person's sessions, and the audit trail of each."""
        listed = await self._call("list", "GET", "?limit=100", good=(200,))
        if listed is None:
            return
        mine = [session["session_id"] for session in listed.json()["sessions"]]
        self._world.record(Listed(t=self._world.clock.wall(), owner=self.owner, sessions=mine))
        for each in {session_id, *mine} if self._plan.delete_after is None else set(mine):
            history = await self._call("history", "GET", f"/{each}/history", good=(200,), session=each)
            if history is not None:
                events = [transition(event) for event in history.json()["events"]]
                self._world.record(Audit(t=self._world.clock.wall(), session=each, events=events))

    # -- screens -----------------------------------------------------------------------

    async def _follow(self, session: Mapping[str, Any], client: str, over: str) -> str:
        ticket = session["links"]["ws"].partition("ticket=")[2]
        by_ticket = self._plan.by_ticket and over in ("ws", "sse")
        screen = Screen(
            self._world.network,
            self._world.record,
            client=client,
            owner=self.owner,
            session=session["session_id"],
            over=over,
            opened_by=Access(ticket=ticket) if by_ticket else Access(token=self._token),
            number=self._plan.number,
            choice=self._choice,
            clock=self._world.clock,
            syncs=self._plan.syncs and over == "ws",
        )
        life = datetime.fromisoformat(session["deadline"]) - datetime.fromisoformat(session["created_at"])
        try:
            async with asyncio.timeout(life.total_seconds() + self._world.patience):
                return await screen.run()
        except TimeoutError:
            return "lost"  # every session has ended by then; the checker says what became of this one

    async def _second_screen(self, session: Mapping[str, Any], over: str) -> None:
        await asyncio.sleep(self._plan.second_after)
        await self._follow(session, f"{self.owner}.second", over)

    # -- others ------------------------------------------------------------------------

    async def _strangers(self, session_id: str) -> None:
        """Try two of all doors, with a valid token of another owner."""
        for call in self._choice.sample(sorted(DOORS), 2):
            answer, saw = await (self._stranger_by_socket if call == "ws" else self._stranger_by_http)(
                session_id, call, new_token()
            )
            who = f"a stranger to {self.owner}"
            self._world.record(
                Stranger(t=self._world.clock.wall(), owner=who, session=session_id, call=call, answer=answer, saw=saw)
            )

    async def _stranger_by_http(self, session_id: str, call: str, token: str) -> tuple[int, bool]:
        method, end = DOORS[call]
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                async with self._line.stream(method, f"{SESSIONS}/{session_id}{end}", headers=headers) as exchange:
                    body = await exchange.piece() or b""
        except (NoAnswer, TimeoutError):
            return 0, False
        if call == "events" and exchange.status == 200 and b"data:" not in body:
            return 503, False  # the `retry:` line of a server that has no time
        return exchange.status, b'"status":"' in body and b'"seq":' in body

    async def _stranger_by_socket(self, session_id: str, call: str, token: str) -> tuple[int, bool]:
        saw = False
        try:
            async with (
                asyncio.timeout(OPEN_SECONDS),
                self._line.socket(
                    f"{SESSIONS}/{session_id}/ws?since=0",
                    subprotocols=Access(token=token).subprotocols,
                    seconds=OPEN_SECONDS,
                ) as socket,
            ):
                while True:
                    saw |= json.loads(await socket.receive())["type"] not in ("error", "bye")
        except SocketClosed as closed:
            return closed.code, saw
        except SocketRefused as refusal:
            return refusal.status, saw
        except (NoAnswer, TimeoutError):
            return 0, saw
