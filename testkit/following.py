"""One client per transport, all behind one function.

`async for step in follow(transport, url, id, token, since=N)`: each is as simple as a
client may be that keeps the contract. It holds one cursor and takes the frames as they
come. Further promises of the wire (a snapshot first, ids, the last frame) are asserted
on the way. Closing the generator cuts the connection without a word; following again
from the last step's `seq` is coming back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

TRANSPORTS: Final = ("ws", "sse", "long-poll", "poll")

POLL_SECONDS: Final = 0.02
WAIT_SECONDS: Final = 10


class Step(NamedTuple):
    """One thing that a client learned: a transition, or (``seq`` 0) the end."""

    seq: int
    event: str
    status: str = ""


GONE: Final = Step(0, "gone")
"""Erased while it was followed: 4510, or a 404 for what was seen before."""
NOT_FOUND: Final = Step(0, "not found")


def end(status: str) -> Step:
    return Step(0, "end", status)


Steps = AsyncGenerator[Step, None]


def follow(transport: str, url: str, session_id: str, token: str, since: int = 0) -> Steps:
    """Every step after ``since``, then the end.

    ``url``: of the server, beginning with http.
    """
    session_url = f"{url}/api/tryon/sessions/{session_id}"
    return {"ws": _ws, "sse": _sse, "long-poll": _long_poll, "poll": _poll}[transport](session_url, token, since)


def _step(event: dict[str, Any]) -> Step:
    assert event["terminal"] == (event["status"] in ("completed", "failed", "cancelled"))
    return Step(event["seq"], event["event"], event["status"])


def _client(token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        trust_env=False, headers={"Authorization": f"Bearer {token}"}, timeout=httpx.Timeout(WAIT_SECONDS + 5)
    )


# -- pushed: frames --------------------------------------------------------------------


async def _steps_of(frames: AsyncIterator[dict[str, Any]]) -> Steps:
    """Yield the steps that frames of any transport show."""
    first = True
    last: dict[str, Any] = {}
    async for frame in frames:
        assert not last or last["type"] != "bye", "a frame after bye"
        if first:
            assert frame["type"] in ("snapshot", "error")
        if frame["type"] == "snapshot":
            assert first, "a second snapshot without a request"
            assert [event["seq"] for event in frame["missed"]] == sorted({event["seq"] for event in frame["missed"]})
            for event in frame["missed"]:
                yield _step(event)
        elif frame["type"] == "event":
            yield _step(frame)
        elif frame["type"] == "bye":
            if frame["code"] == 1000:
                yield end(frame["reason"])
            elif frame["code"] == 4510:
                yield GONE
            elif frame["code"] == 4504:
                yield NOT_FOUND
            else:
                raise ConnectionError(f"bye {frame['code']} {frame['reason']}")
        first, last = False, frame


async def _ws(session_url: str, token: str, since: int) -> Steps:
    url = session_url.replace("http", "ws", 1)
    async with connect(
        f"{url}/ws?since={since}",
        subprotocols=["tryon.v1", f"tryon.bearer.{token}"],  # type: ignore[list-item]  # a NewType of str
        proxy=None,
        ping_interval=None,
        compression=None,
        close_timeout=2,
    ) as connection:
        said: list[dict[str, Any]] = []

        async def frames() -> AsyncIterator[dict[str, Any]]:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    said.append(json.loads(await connection.recv()))
                    yield said[-1]

        try:
            async for step in _steps_of(frames()):
                yield step
            assert connection.close_code == said[-1]["code"]
        finally:
            connection.transport.abort()


# -- pushed: Server-Sent Events --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """The lines between two blank lines of an event stream, as they were sent."""

    data: str | None = None
    id: str | None = None
    event: str | None = None
    retry: str | None = None
    comments: tuple[str, ...] = ()

    @property
    def frame(self) -> dict[str, Any]:
        assert self.data is not None
        frame: dict[str, Any] = json.loads(self.data)
        return frame


def parse_block(lines: list[str]) -> Block:
    """Parse one block of an event stream (WHATWG HTML, section 9.2.6).

    An unknown field is an error.
    """
    fields: dict[str, list[str]] = {"data": [], "id": [], "event": [], "retry": [], "": []}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name].append(value.removeprefix(" "))
    return Block(
        data="\n".join(fields["data"]) if fields["data"] else None,
        id=fields["id"][-1] if fields["id"] else None,
        event=fields["event"][-1] if fields["event"] else None,
        retry=fields["retry"][-1] if fields["retry"] else None,
        comments=tuple(fields[""]),
    )


async def blocks(response: httpx.Response) -> AsyncIterator[Block]:
    """Yield the blocks of a stream as they arrive.

    A block without its blank line is not handed out, as in a browser.
    """
    lines: list[str] = []
    async for line in response.aiter_lines():
        if line:
            lines.append(line)
        elif lines:
            yield parse_block(lines)
            lines = []


def parse_stream(text: str) -> Iterator[Block]:
    """Yield the blocks of a stream that has ended."""
    assert text.endswith("\n\n")
    for block in text.split("\n\n"):
        if block:
            yield parse_block(block.split("\n"))


async def _sse(session_url: str, token: str, since: int) -> Steps:
    """As an EventSource comes back: the cursor is the last id."""
    async with (
        _client(token) as client,
        client.stream("GET", f"{session_url}/events", headers={"Last-Event-ID": str(since)}) as response,
    ):
        if response.status_code == 204:  # the browser stops; what it saw last was the end
            status = (await client.get(session_url)).json()["status"]
            yield end(status)
            return
        if response.status_code == 404:
            yield NOT_FOUND
            return
        assert response.status_code == 200

        async def frames() -> AsyncIterator[dict[str, Any]]:
            async for block in blocks(response):
                assert block.event is None
                if block.data is not None:
                    frame = block.frame
                    seq = frame["session"]["seq"] if frame["type"] == "snapshot" else frame.get("seq")
                    has_id = frame["type"] in ("snapshot", "event")
                    assert block.id == (str(seq) if has_id else None), "events and snapshots have their seq as id"
                    yield frame

        async for step in _steps_of(frames()):
            yield step


# -- polled ----------------------------------------------------------------------------


async def _poll(session_url: str, token: str, since: int) -> Steps:
    async for step in _ask_again_and_again(session_url, token, since, wait=None):
        yield step


async def _long_poll(session_url: str, token: str, since: int) -> Steps:
    async for step in _ask_again_and_again(session_url, token, since, wait=WAIT_SECONDS):
        yield step


async def _ask_again_and_again(session_url: str, token: str, since: int, *, wait: float | None) -> Steps:
    async with _client(token) as client:
        etag: str | None = None
        while True:
            answer = await client.get(
                session_url,
                params={"since": since} | ({} if wait is None else {"wait": wait}),
                headers={"If-None-Match": etag} if etag and wait is None else {},
            )
            if answer.status_code == 404:
                yield GONE if etag else NOT_FOUND
                return
            etag = answer.headers["etag"]
            if answer.status_code == 200:
                session = answer.json()
                for event in session["missed"]:
                    since = event["seq"]
                    yield _step(event)
                assert since >= session["seq"], "missed ends with the event that made the session what it is"
                if session["terminal"]:
                    assert "retry-after" not in answer.headers
                    yield end(session["status"])
                    return
                assert int(answer.headers["retry-after"]) > 0
            else:
                assert answer.status_code == 304
            if wait is None:
                await asyncio.sleep(POLL_SECONDS)
