"""All sessions of an owner as Server-Sent Events: ids are the cursor of all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from server.domain.owner_cursor import read_cursor
from server.domain.tokens import new_token
from testkit.following import Block, blocks
from testkit.running import StartWeb, Web, until

EVENTS = "/api/tryon/events"


class Stream:
    """An open stream and the frames it has brought; ``id`` is the last one read."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.frames: list[dict[str, Any]] = []
        self.id = ""
        self._blocks = blocks(response)

    async def next(self, *types: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            async for block in self._blocks:
                frame = self._take(block)
                if frame is not None and (not types or frame["type"] in types):
                    return frame
        raise AssertionError("the stream has ended")

    def _take(self, block: Block) -> dict[str, Any] | None:
        self.id = block.id or self.id
        if block.data is None:
            return None
        self.frames.append(block.frame)
        return block.frame


@contextlib.asynccontextmanager
async def follow_all(web: Web, token: str, since: str | None = None) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {token}"} | ({} if since is None else {"Last-Event-ID": since})
    async with web.client.stream("GET", EVENTS, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield Stream(response)


async def test_owner_stream_resumes_from_its_last_id(web: Web) -> None:
    """The id names all living sessions, so one line is the whole cursor."""
    token = new_token()
    one, _ = await web.submit(token)
    two, _ = await web.submit(token)
    async with follow_all(web, token) as stream:
        await stream.next("synced")
        assert read_cursor(stream.id) == {one.id: 1, two.id: 1}
        claim = await web.begin(one)
        await stream.next("event")
        assert read_cursor(stream.id) == {one.id: 2, two.id: 1}
        last = stream.id
    await until(lambda: web.hub.followers == 0)
    await web.complete(claim)
    three, _ = await web.submit(token)
    async with follow_all(web, token, last) as stream:
        await stream.next("synced")
        snapshots = [frame for frame in stream.frames if frame["type"] == "snapshot"]
        assert {frame["session"]["session_id"]: [e["seq"] for e in frame["missed"]] for frame in snapshots} == {
            one.id: [3],
            two.id: [],
            three.id: [1],
        }
        assert [frame["session_id"] for frame in stream.frames if frame["type"] == "ended"] == [one.id]
        assert read_cursor(stream.id) == {two.id: 1, three.id: 1}


async def test_owner_stream_needs_a_token(web: Web) -> None:
    """A ticket is for one session; a malformed token is none."""
    assert (await web.client.get(EVENTS)).json()["code"] == "token_required"
    assert (await web.client.get(f"{EVENTS}?ticket=x.1.y")).status_code == 401
    malformed = await web.client.get(EVENTS, headers={"X-Client-Token": "short"})
    assert malformed.json()["code"] == "invalid_token"


async def test_overload_is_a_stream_of_one_retry(start_web: StartWeb) -> None:
    """As on the stream of one session: the client comes back later."""
    web = await start_web(sockets_per_owner=1)
    token = new_token()
    async with follow_all(web, token) as stream:
        await stream.next("synced")
        answer = await web.client.get(EVENTS, headers={"X-Client-Token": token})
        assert (answer.status_code, answer.text) == (200, "retry: 5000\n\n")


async def test_head_opens_no_stream(web: Web) -> None:
    """The headers of a stream, and nothing to hold open."""
    answer = await web.client.head(EVENTS, headers={"X-Client-Token": new_token()})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert web.hub.followers == 0


async def test_drained_stream_says_when_to_return(web: Web) -> None:
    """The last frame is `bye`, behind its time as `retry`."""
    async with follow_all(web, new_token()) as stream:
        await stream.next("synced")
        web.hub.drain()
        bye = await stream.next("bye")
        assert (bye["code"], bye["reconnect"]) == (4000, True)
