"""A model of the API for two owners, and the machine that compares both.

:class:`Expected` is a session as its owner must see it; the machine's rules do the same
to it and to the real server. What a rule may not do is refused by the server with the
status that the model gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from server.domain.stored_files import NewFile
from server.domain.tokens import new_token
from server.sessions.claims import Claim
from testkit.running import Web
from testkit.uploads import form
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.paths import SESSIONS

SECONDS: Final = 20.0
OWNERS: Final = 2
TERMINAL: Final = ("completed", "failed", "cancelled")
T = TypeVar("T")


@dataclass
class Expected:
    """A session as the model knows it."""

    id: str
    owner: int
    ticket: str
    status: str = "created"
    events: list[str] = field(default_factory=lambda: ["created"])
    wish: bool = False
    """Whether a cancel waits for its worker."""
    claim: Claim | None = None
    retry: Expected | None = None
    origin: Expected | None = None
    gone: bool = False

    def __repr__(self) -> str:
        return f"<{self.id[-6:]} of {self.owner} {self.status}{' gone' if self.gone else ''}>"

    @property
    def seq(self) -> int:
        return len(self.events)

    def move(self, event: str, status: str) -> None:
        self.events.append(event)
        self.status = status


@dataclass
class Screen:
    """A client that follows a session, and the seqs that it was shown."""

    session: Expected
    socket: ClientConnection
    seqs: list[int] = field(default_factory=list)
    closed: int | None = None

    def read_until(self, seq: int) -> None:
        """Read frames until this seq, or the end, was shown."""
        while self.closed is None and (not self.seqs or self.seqs[-1] < seq):
            self._read()

    def read_to_the_end(self) -> None:
        while self.closed is None:
            self._read()

    def _read(self) -> None:
        try:
            frame: dict[str, Any] = json.loads(self.socket.recv(SECONDS))
        except ConnectionClosed:
            self.closed = self.socket.close_code
            return
        if frame["type"] == "snapshot":
            self.seqs.append(frame["session"]["seq"])
        elif frame["type"] == "event":
            assert frame["seq"] == self.seqs[-1] + 1, "a transition was lost, repeated or shown late"
            self.seqs.append(frame["seq"])


class Api(RuleBasedStateMachine):
    """Two owners, a worker and followers against one server.

    A subclass sets the server, ``web``, and its ``loop``.
    """

    web: Web
    loop: asyncio.AbstractEventLoop
    sessions = Bundle("sessions")
    screens = Bundle("screens")

    def __init__(self) -> None:
        super().__init__()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.web.port}", trust_env=False, timeout=SECONDS)
        self.tokens = [new_token() for _ in range(OWNERS)]
        self.known: list[Expected] = []
        self.open: list[Screen] = []
        self.runs = itertools.count(1)
        self.sockets = contextlib.ExitStack()

    def teardown(self) -> None:
        """Close all connections."""
        self.sockets.close()
        self.http.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the server's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(SECONDS)

    def _call(self, method: str, path: str, owner: int, **more: Any) -> httpx.Response:
        answer = self.http.request(method, path, headers={"X-Client-Token": self.tokens[owner]}, **more)
        assert answer.status_code < 500, answer.text
        return answer

    def _path(self, session: Expected, verb: str = "") -> str:
        return f"{SESSIONS}/{session.id}{verb}"

    def _allowed(self, session: Expected, owner: int, answer: httpx.Response) -> bool:
        """Return whether the session is this owner's and alive; else expect a 404."""
        if session.gone or session.owner != owner:
            assert answer.status_code == 404, answer.text
            return False
        return True

    # -- rules -------------------------------------------------------------------------

    @rule(target=sessions, owner=st.integers(0, OWNERS - 1))
    def upload(self, owner: int) -> Expected:
        """Upload a photo: its session is created, as seq 1."""
        return self._created(self._call("POST", SESSIONS, owner, files=form()), owner)

    def _created(self, answer: httpx.Response, owner: int) -> Expected:
        assert answer.status_code == 201, answer.text
        view = answer.json()
        assert (view["status"], view["seq"]) == ("created", 1)
        ticket = view["links"]["ws"].partition("ticket=")[2]
        self.known.append(Expected(view["session_id"], owner, ticket))
        return self.known[-1]

    @rule(session=sessions, owner=st.integers(0, OWNERS - 1))
    def get(self, session: Expected, owner: int) -> None:
        answer = self._call("GET", self._path(session), owner)
        if self._allowed(session, owner, answer):
            view = answer.json()
            assert (view["status"], view["seq"], view["terminal"]) == (
                session.status, session.seq, session.status in TERMINAL
            )  # fmt: skip

    @rule(session=sessions, other=sessions)
    def get_by_ticket(self, session: Expected, other: Expected) -> None:
        """Show a ticket: it opens its own session only, and begets no ticket."""
        answer = self.http.get(self._path(session), params={"ticket": other.ticket})
        if session is not other:
            assert answer.status_code == 401
        elif session.gone:
            assert answer.status_code == 404
        else:
            assert answer.json()["seq"] == session.seq
            assert "ticket" not in answer.text

    @rule(session=sessions, verb=st.sampled_from(("/cancel", "/retry", "")))
    def write_by_ticket(self, session: Expected, verb: str) -> None:
        """Show a ticket to change something: it is a 404."""
        method = "POST" if verb else "DELETE"
        assert (
            self.http.request(method, self._path(session, verb), params={"ticket": session.ticket}).status_code == 404
        )

    @rule(session=sessions, owner=st.integers(0, OWNERS - 1))
    def history(self, session: Expected, owner: int) -> None:
        answer = self._call("GET", self._path(session, "/history"), owner)
        if self._allowed(session, owner, answer):
            events = answer.json()["events"]
            assert [event["seq"] for event in events] == list(range(1, session.seq + 1))
            assert [event["event"] for event in events] == session.events
            assert events[-1]["status"] == session.status

    @rule(owner=st.integers(0, OWNERS - 1), limit=st.integers(1, 4))
    def list(self, owner: int, limit: int) -> None:
        """List an owner's sessions, newest first, page by page."""
        seen, cursor = [], None
        while True:
            page = self._call("GET", SESSIONS, owner, params={"limit": limit} | ({"cursor": cursor} if cursor else {}))
            seen += [(view["session_id"], view["status"]) for view in page.json()["sessions"]]
            cursor = page.json()["next_cursor"]
            if cursor is None:
                break
        mine = [session for session in self.known if session.owner == owner and not session.gone]
        assert seen == [(session.id, session.status) for session in reversed(mine)]

    @rule(session=sessions, owner=st.integers(0, OWNERS - 1))
    def cancel(self, session: Expected, owner: int) -> None:
        answer = self._call("POST", self._path(session, "/cancel"), owner)
        if not self._allowed(session, owner, answer):
            return
        if session.status == "created":
            session.move("cancelled", "cancelled")
        elif session.status == "processing":
            session.wish = True
        assert answer.status_code == (202 if session.status == "processing" else 200)
        assert answer.json()["status"] == session.status

    @rule(target=sessions, session=sessions, owner=st.integers(0, OWNERS - 1))
    def retry(self, session: Expected, owner: int) -> Any:
        answer = self._call("POST", self._path(session, "/retry"), owner)
        if not self._allowed(session, owner, answer):
            return multiple()
        if session.status not in ("failed", "cancelled"):
            assert answer.status_code == 409
            return multiple()
        if session.retry is not None and not session.retry.gone:
            assert (answer.status_code, answer.json()["session_id"]) == (201, session.retry.id)
            return multiple()
        session.retry = self._created(answer, owner)
        session.retry.origin = session
        assert answer.json()["retry_of"] == session.id
        return session.retry

    @rule(session=sessions, owner=st.integers(0, OWNERS - 1))
    def delete(self, session: Expected, owner: int) -> None:
        """Delete a session with all retries of the same photo."""
        answer = self._call("DELETE", self._path(session), owner)
        if not self._allowed(session, owner, answer):
            return
        assert answer.status_code == 200
        first = session
        while first.origin is not None:
            first = first.origin
        each: Expected | None = first
        while each is not None:
            each.gone, each = True, each.retry

    # -- the worker --------------------------------------------------------------------

    @rule(session=sessions)
    def begin(self, session: Expected) -> None:
        """Claim a session for a worker: one that waits, and no other."""
        claim = self._do(self.web.services.sessions.claims.begin(session.id, worker="model", run=next(self.runs)))
        assert (claim is not None) == (session.status == "created" and not session.gone)
        if claim is not None:
            session.claim = claim
            session.move("processing", "processing")

    @rule(session=sessions, end=st.sampled_from(("complete", "fail", "requeue")))
    def work_ends(self, session: Expected, end: str) -> None:
        """End a claim, which works once; a cancel's wish forbids success."""
        if session.claim is None:
            return
        running = session.status == "processing" and not session.gone
        claim, claims = session.claim, self.web.services.sessions.claims
        if end == "complete":
            done = self._do(claims.complete(claim, [NewFile(b"\xff\xd8\xff\xe0 result")]))
            assert done == (running and not session.wish)
            session.move("completed", "completed") if done else None
        elif end == "fail":
            done = self._do(claims.fail(claim, "mock_failure"))
            assert done == running
            session.move("failed", "failed") if done else None
        else:
            done = self._do(claims.requeue(claim, burnt=False, reason="drain"))
            assert done == running
            if done:
                session.move(*(("cancelled", "cancelled") if session.wish else ("requeued", "created")))
        session.claim = None if done else session.claim

    # -- followers ---------------------------------------------------------------------

    @rule(target=screens, session=sessions, owner=st.integers(0, OWNERS - 1), by_ticket=st.booleans())
    def follow(self, session: Expected, owner: int, by_ticket: bool) -> Any:
        query = f"?ticket={session.ticket}" if by_ticket else ""
        headers = {} if by_ticket else {"X-Client-Token": self.tokens[owner]}
        url = f"ws://127.0.0.1:{self.web.port}{self._path(session, '/ws')}{query}"
        options: dict[str, Any] = {"proxy": None, "compression": None, "open_timeout": SECONDS, "close_timeout": 1}
        socket = self.sockets.enter_context(connect(url, additional_headers=headers, **options))
        screen = Screen(session, socket)
        self.open.append(screen)
        if session.gone or not (by_ticket or session.owner == owner):
            screen.read_to_the_end()
            assert (screen.closed, screen.seqs) == (CloseCode.NOT_FOUND, [])
            return multiple()
        screen.read_until(session.seq)
        assert screen.seqs == [session.seq]
        return screen

    @rule(screen=consumes(screens))
    def leave(self, screen: Screen) -> None:
        screen.socket.close()
        with contextlib.suppress(ValueError):
            self.open.remove(screen)

    @invariant()
    def followers_see_every_transition(self) -> None:
        """Read all that each was shown: every transition in order, then the end."""
        for screen in [screen for screen in self.open if screen.closed is None]:
            session = screen.session
            if session.gone:
                screen.read_to_the_end()
                assert screen.closed in (CloseCode.GONE, CloseCode.DONE)
                continue
            screen.read_until(session.seq)
            assert screen.seqs[-1] == session.seq
            if session.status in TERMINAL:
                screen.read_to_the_end()
                assert screen.closed == CloseCode.DONE
