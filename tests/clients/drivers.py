"""Both clients behind one interface, so that one table of stories drives them.

The Python client runs in this process, the JavaScript client in Node: ``driver.mjs``
takes calls and gives news as lines of JSON.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from testkit.plugin import missing
from testkit.processes import ROOT
from testkit.running import until
from tryon.client.api import AsyncTryOn
from tryon.client.problems import Problem

SECONDS: Final = 30.0
"""Longest time that a story waits for one thing."""

View = dict[str, Any]
"""JSON, as both clients know it."""


class Refused(Exception):
    """A problem of either client."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.code: str = problem["code"]
        self.status: int = problem["status"]
        self.part: str | None = problem.get("part")
        self.retryable: bool = problem["retryable"]
        super().__init__(f"{self.code} ({self.status})")


class Followed:
    """A session that a client follows or runs, as far as the client has shown it."""

    def __init__(self) -> None:
        self.events: list[View] = []
        self.sessions: list[View] = []
        self.transports: list[str] = []
        self.outcome: asyncio.Future[View] = asyncio.get_running_loop().create_future()
        self.outcome.add_done_callback(lambda done: done.cancelled() or done.exception())

    @property
    def seqs(self) -> list[int]:
        """Return the transitions in the order in which they were shown."""
        return [event["seq"] for event in self.events]

    @property
    def seen(self) -> int:
        """Return the seq of the newest session."""
        return max((session["seq"] for session in self.sessions), default=0)

    async def reaches(self, seq: int) -> None:
        """Wait until the session was seen at this transition."""
        await until(lambda: self.seen >= seq or self.outcome.done(), seconds=SECONDS)
        assert self.seen >= seq, self.outcome

    async def connected(self) -> None:
        """Wait until a transport is known; a session may have been read before that."""
        await until(lambda: bool(self.transports) or self.outcome.done(), seconds=SECONDS)
        assert self.transports, self.outcome

    async def ended(self) -> View:
        """Return the session at its end. Raises Refused."""
        async with asyncio.timeout(SECONDS):
            return await asyncio.shield(self.outcome)

    async def gone(self) -> str:
        """Return the code with which the client gave up."""
        try:
            session = await self.ended()
        except Refused as refused:
            return refused.code
        raise AssertionError(f"it ended as {session['status']}")


class Driver(Protocol):
    """A client of one owner."""

    token: str

    async def call(self, name: str, **arguments: Any) -> Any:
        """Return the answer of a call as JSON. Raises Refused."""

    def follow(self, session: str, **options: Any) -> Followed:
        """Follow a session; ``transports`` and ``since`` as the clients have them."""

    def run(self, **arguments: Any) -> Followed:
        """Upload and follow; the arguments are those of ``upload``."""

    async def close(self) -> None:
        """Stop following."""


class PythonDriver:
    """``tryon.AsyncTryOn``."""

    def __init__(self, base: str, token: str) -> None:
        self.token = token
        self._tryon = AsyncTryOn(base, token=token, trust_env=False)
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, name: str, **arguments: Any) -> Any:
        session = [arguments.pop("session")] if "session" in arguments else []
        try:
            answer = await getattr(self._tryon, name)(*session, **_named(arguments))
        except Problem as problem:
            raise _refused(problem) from None
        return msgspec.to_builtins(answer)

    def follow(self, session: str, **options: Any) -> Followed:
        followed = Followed()

        async def follow() -> View:
            async with contextlib.aclosing(self._tryon.follow(session, **options)) as updates:
                async for update in updates:
                    if update.event is not None:
                        followed.events.append(msgspec.to_builtins(update.event))
                    followed.sessions.append(msgspec.to_builtins(update.session))
                    followed.transports.append(update.transport)
            return followed.sessions[-1]

        return self._start(followed, follow())

    def run(self, **arguments: Any) -> Followed:
        followed = Followed()

        async def run() -> View:
            whole = self._tryon.run(**_named(arguments))
            async for session in whole:
                followed.sessions.append(msgspec.to_builtins(session))
            return dict(msgspec.to_builtins(await whole))

        return self._start(followed, run())

    def _start(self, followed: Followed, call: Any) -> Followed:
        async def settle() -> None:
            try:
                followed.outcome.set_result(await call)
            except Problem as problem:
                followed.outcome.set_exception(_refused(problem))

        task = asyncio.create_task(settle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return followed

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._tryon.close()


def _named(arguments: Mapping[str, Any]) -> View:
    """Return the arguments by the names that Python has for them.

    ``from`` is a word of the language.
    """
    names = {"from": "original", "idempotencyKey": "idempotency_key"}
    return {names.get(name, name): value for name, value in arguments.items()}


def _refused(problem: Problem) -> Refused:
    return Refused({name: getattr(problem, name) for name in ("code", "status", "part", "retryable")})


class Node:
    """One process of Node, which holds any number of JavaScript clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Followed] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls) -> Node:
        """Start it; Node 20 has WebSockets behind a flag."""
        node = shutil.which("node")
        if node is None:
            missing("Node.js")
        driver, script = ROOT / "tests" / "clients" / "driver.mjs", ROOT / "static" / "tryon.js"
        process = await asyncio.create_subprocess_exec(
            *(node, "--no-warnings", "--experimental-websocket", str(driver), script.as_uri()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**22,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            news = json.loads(line)
            followed = self._waiting[news["id"]]
            if "event" in news:
                followed.events.append(news["event"])
            elif "session" in news:
                followed.sessions.append(news["session"])
            elif "transport" in news:
                followed.transports.append(news["transport"])
            elif not followed.outcome.done():
                if "problem" in news:
                    followed.outcome.set_exception(_error_of(news["problem"]))
                else:
                    followed.outcome.set_result(news["result"])
        for followed in self._waiting.values():
            if not followed.outcome.done():
                followed.outcome.set_exception(AssertionError("Node has ended"))

    def begin(self, call: str, client: View, arguments: View) -> tuple[int, Followed]:
        """Send a call; return its number, and where its news arrive."""
        assert self._process.stdin is not None
        number, followed = next(self._numbers), Followed()
        self._waiting[number] = followed
        line = json.dumps({"id": number, "call": call, "client": client, "args": arguments})
        self._process.stdin.write(line.encode() + b"\n")
        return number, followed

    async def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(SECONDS):
            await self._process.wait()
            await self._reader


@contextlib.asynccontextmanager
async def one_node() -> AsyncIterator[Callable[[], Awaitable[Node]]]:
    """Yield a function that starts Node at its first call; it ends with the block."""
    async with contextlib.AsyncExitStack() as stack:
        started: list[Node] = []

        async def node() -> Node:
            if not started:
                started.append(await Node.start())
                stack.push_async_callback(started[0].close)
            return started[0]

        yield node


def _error_of(problem: View) -> Exception:
    if problem.get("code") is None or not isinstance(problem["code"], str):
        return AssertionError(f"{problem['name']}: {problem['message']}")
    return Refused(problem)


class JavaScriptDriver:
    """``static/tryon.js`` in Node."""

    def __init__(self, node: Node, base: str, token: str) -> None:
        self.token = token
        self._node = node
        self._client = {"base": base, "token": token}
        self._numbers: list[int] = []

    async def call(self, name: str, **arguments: Any) -> Any:
        followed = self._node.begin(name, self._client, _encoded(arguments))[1]
        async with asyncio.timeout(SECONDS):
            return await followed.outcome

    def follow(self, session: str, **options: Any) -> Followed:
        return self._begin("follow", {"session": session, **options})

    def run(self, **arguments: Any) -> Followed:
        return self._begin("run", _encoded(arguments))

    def _begin(self, call: str, arguments: View) -> Followed:
        number, followed = self._node.begin(call, self._client, arguments)
        self._numbers.append(number)
        return followed

    async def close(self) -> None:
        for number in self._numbers:
            self._node.begin("stop", self._client, {"id": number})


def _encoded(value: Any) -> Any:
    """Return JSON in which photos are base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {name: _encoded(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_encoded(each) for each in value]
    return value
