"""Server-Sent Events, byte by byte as an EventSource reads them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from server.domain.session import Session
from server.web.transports import sse
from testkit.following import Block, blocks, parse_stream
from testkit.running import StartWeb, Web, until


class Stream:
    """An open event stream and the blocks it has brought."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.blocks: list[Block] = []
        self._blocks = blocks(response)

    async def next(self, kind: str | None = None) -> Block:
        """Return the next block, or the next whose frame is of this kind."""
        while True:
            block = await anext(self._blocks)
            self.blocks.append(block)
            if kind is None or (block.data is not None and block.frame["type"] == kind):
                return block

    async def rest(self) -> list[Block]:
        with contextlib.suppress(StopAsyncIteration):
            while True:
                await self.next()
        return self.blocks

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [block.frame for block in self.blocks if block.data is not None]


def path(session: Session) -> str:
    return f"/api/tryon/sessions/{session.id}/events"


@contextlib.asynccontextmanager
async def opened(
    web: Web, session: Session, token: str, query: str = "", last_event_id: str | None = None
) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {token}"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    async with web.client.stream("GET", path(session) + query, headers=headers) as response:
        yield Stream(response)


async def not_reading(web: Web, session: Session, token: str) -> socket.socket:
    """Open a stream and stop reading after its snapshot; return its socket.

    The buffers on the way to it are full.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, ("127.0.0.1", web.port))
    head = f"GET {path(session)} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
    await loop.sock_sendall(made, head.encode())
    said = b""
    while b'"snapshot"' not in said:
        said += await loop.sock_recv(made, 4096)
    (stream,) = web.hub.registry.of(session.id)
    assert isinstance(stream, sse.Stream)
    while stream.sending is None:  # what is not the latest word of progress is not dropped
        stream.put(b": " + b"x" * 60_000 + b"\n\n")
        await asyncio.sleep(0.001)
    return made


async def test_slow_reader_is_dropped_alone(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client of the same session gets its events meanwhile."""
    monkeypatch.setattr("server.web.transports.sse.SEND_SECONDS", 0.3)
    session, token = await web.submit()
    with contextlib.closing(await not_reading(web, session, token)):
        async with opened(web, session, token) as stream:
            assert (await stream.next()).frame["type"] == "snapshot"
            await web.begin(session)
            assert (await stream.next("event")).frame["seq"] == 2
            await until(lambda: web.hub.followers_of(session.id) == 1)


async def test_slow_reader_does_not_delay_a_drain(web: Web) -> None:
    """A client that does not read is cut soon after the server begins to stop."""
    session, token = await web.submit()
    with contextlib.closing(await not_reading(web, session, token)):
        assert web.hub.drain() == 1
        await until(lambda: web.hub.followers_of(session.id) == 0, seconds=5)  # a write may take 10 s else


async def finished(web: Web) -> tuple[Session, str]:
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    return session, token


async def test_headers_prevent_buffering_by_proxies(web: Web) -> None:
    """No cache and no buffer may hold events back."""
    session, token = await web.submit()
    async with opened(web, session, token) as stream:
        headers = stream.response.headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["x-accel-buffering"] == "no"
    assert headers["cache-control"] == "no-store, no-transform"
    assert "content-length" not in headers
    assert headers["x-request-id"]


async def test_first_block_is_snapshot_with_retry(web: Web) -> None:
    """It has the seq as id and the time after which a browser reconnects."""
    session, token = await web.submit()
    async with opened(web, session, token) as stream:
        first = await stream.next()
    assert (first.frame["type"], first.frame["session"]["session_id"]) == ("snapshot", session.id)
    assert (first.id, first.event) == ("1", None)
    assert first.retry is not None
    assert int(first.retry) > 0


async def test_only_snapshots_and_events_have_ids(web: Web) -> None:
    """No block has an event name, so ``onmessage`` gets them all."""
    session, token = await web.submit()
    async with opened(web, session, token) as stream:
        await stream.next()
        claim = await web.begin(session)
        await stream.next()
        await web.services.sessions.claims.report(claim, 0.5, "rendering")
        await stream.next()
        await web.complete(claim)
        await stream.rest()
    assert [(block.frame["type"], block.id) for block in stream.blocks] == [
        ("snapshot", "1"),
        ("event", "2"),
        ("progress", None),
        ("event", "3"),
        ("bye", None),
    ]
    assert {block.event for block in stream.blocks} == {None}
    assert [frame.get("seq") for frame in stream.frames] == [None, 2, 2, 3, None]
    bye = stream.frames[-1]
    assert (bye["code"], bye["reason"], bye["reconnect"]) == (1000, "completed", False)


async def test_frames_equal_those_of_a_socket(web: Web) -> None:
    """Both transports bring the same frames."""
    session, token = await web.submit()
    async with opened(web, session, token) as stream, web.follow(session.id, token) as socket:
        await stream.next()
        await socket.next()
        claim = await web.begin(session)
        await stream.next()
        await socket.next()
        await web.complete(claim)
        await stream.rest()
        await socket.rest()

    def comparable(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for frame in frames:  # each link is signed at its own moment
            shown = frame.get("session", {})
            shown.pop("links", None)
            for file in (*shown.get("inputs", ()), *shown.get("outputs", ())):
                file.pop("link")
        return [frame for frame in frames if frame["type"] != "progress"]

    assert comparable(stream.frames) == comparable(socket.frames)


async def test_last_event_id_brings_missed_events(web: Web) -> None:
    """The snapshot holds the events after that id."""
    session, token = await finished(web)
    async with opened(web, session, token, last_event_id="1") as stream:
        first = await stream.next()
        assert [event["seq"] for event in first.frame["missed"]] == [2, 3]
        assert first.id == "3"


async def test_last_event_id_wins_over_since(web: Web) -> None:
    """A browser reconnects with the URL that it was given at first."""
    session, token = await finished(web)
    async with opened(web, session, token, "?since=0", last_event_id="2") as stream:
        assert [event["seq"] for event in (await stream.next()).frame["missed"]] == [3]


async def test_since_counts_without_last_event_id(web: Web) -> None:
    """The first connect has no Last-Event-ID."""
    session, token = await finished(web)
    async with opened(web, session, token, "?since=2") as stream:
        assert [event["seq"] for event in (await stream.next()).frame["missed"]] == [3]
    async with opened(web, session, token) as stream:
        assert (await stream.next()).frame["missed"] == []


@pytest.mark.parametrize("last_event_id", ["", "x", "-1", "1.0", "９"])
async def test_foreign_last_event_id_counts_as_zero(web: Web, last_event_id: str) -> None:
    """Everything is missed then."""
    session, token = await finished(web)
    headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": last_event_id.encode()}
    async with web.client.stream("GET", path(session), headers=headers) as response:  # type: ignore[arg-type]
        first = await Stream(response).next()
    assert [event["seq"] for event in first.frame["missed"]] == [1, 2, 3]


@pytest.mark.parametrize("how", ["header", "since"])
async def test_reconnect_after_the_end_is_204(web: Web, how: str) -> None:
    """204 makes an EventSource stop."""
    session, token = await finished(web)
    last_event_id = "3" if how == "header" else None
    async with opened(web, session, token, "?since=3" if how == "since" else "", last_event_id) as stream:
        assert stream.response.status_code == 204
        assert await stream.response.aread() == b""


async def test_stream_ends_after_the_terminal_event(web: Web) -> None:
    """``bye`` is the last block."""
    session, token = await finished(web)
    answer = await web.client.get(path(session), headers={"Authorization": f"Bearer {token}"})
    assert [block.frame["type"] for block in parse_stream(answer.text)] == ["snapshot", "bye"]


async def test_ticket_opens_a_stream(web: Web) -> None:
    """The link of the session opens without any header."""
    session, token = await web.submit()
    own = await web.client.get(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
    async with web.client.stream("GET", own.json()["links"]["events"]) as response:
        stream = Stream(response)
        links = (await stream.next()).frame["session"]["links"]
        assert "ticket" not in links["ws"] + links["events"]
        await web.begin(session)
        assert (await stream.next("event")).frame["seq"] == 2  # after its place in the queue, perhaps


async def test_final_refusal_is_a_problem(web: Web) -> None:
    """An EventSource must not try again."""
    session, token = await web.submit()
    strange = {"Authorization": f"Bearer {token[::-1]}"}
    for headers, query, status, code in (
        (strange, "", 404, "not_found"),
        ({}, "", 404, "not_found"),
        ({}, "?ticket=forged", 401, "invalid_ticket"),
        ({"Authorization": "Bearer short"}, "", 401, "invalid_token"),
    ):
        answer = await web.client.get(path(session) + query, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
    assert web.hub.followers == 0


async def test_ping_is_a_comment_and_a_frame(start_web: StartWeb) -> None:
    """The comment keeps proxies, the frame the page's watchdog quiet."""
    web = await start_web(ping_seconds=0.1)
    session, token = await web.submit()
    async with opened(web, session, token) as stream:
        assert (await stream.next()).frame["ping_seconds"] == 0.1
        for _ in range(2):
            block = await stream.next()
            while block.data is None or block.frame["type"] != "ping":
                block = await stream.next()
            assert block.comments
            assert block.id is None


async def test_erasure_ends_the_stream(web: Web) -> None:
    """``bye`` holds 4510, the reason, and not to reconnect."""
    session, token = await web.submit()
    async with opened(web, session, token) as stream:
        await stream.next()
        await web.services.sessions.erasure.delete(session.id, session.owner)
        bye = (await stream.rest())[-1].frame
    assert (bye["type"], bye["code"], bye["reason"], bye["reconnect"]) == ("bye", 4510, "deleted", False)


async def test_drain_says_when_to_reconnect(web: Web) -> None:
    """A ``retry`` line and ``bye`` hold the same delay."""
    session, token = await web.submit()
    async with opened(web, session, token) as stream:
        await stream.next()
        web.hub.drain()
        last = (await stream.rest())[-1]
    assert (last.frame["code"], last.frame["reason"], last.frame["reconnect"]) == (4000, "draining", True)
    retries = [block.retry for block in stream.blocks if block.retry is not None]
    assert retries[-1] == str(last.frame["retry_after_ms"])


def only_retry(answer: httpx.Response) -> int:
    """Check that an answer keeps an EventSource trying; return its delay in ms."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    (block,) = parse_stream(answer.text)
    assert block == Block(retry=block.retry)
    assert block.retry is not None
    return int(block.retry)


async def test_draining_server_accepts_no_streams(web: Web) -> None:
    """The answer is a 200 with one ``retry`` line."""
    session, token = await web.submit()
    web.hub.drain()
    answer = await web.client.get(path(session), headers={"Authorization": f"Bearer {token}"})
    assert only_retry(answer) >= 1000


@pytest.mark.parametrize("limit", ["sockets_per_process", "sockets_per_address", "sockets_per_session"])
async def test_overload_is_a_retry_line(start_web: StartWeb, limit: str) -> None:
    """Any other status would end the EventSource for good."""
    web = await start_web(**{limit: 1})
    session, token = await web.submit()
    async with opened(web, session, token) as stream:
        await stream.next()
        answer = await web.client.get(path(session), headers={"Authorization": f"Bearer {token}"})
        assert only_retry(answer) >= 1000
    await until(lambda: web.hub.followers == 0)
    async with opened(web, session, token) as stream:  # there is room again
        assert (await stream.next()).frame["type"] == "snapshot"


async def test_database_outage_is_a_retry_line(web: Web) -> None:
    """The stream is refused for now, not for good."""
    session, token = await web.submit()
    async with web.database.connections.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE tryon_sessions RENAME TO away"))
    answer = await web.client.get(path(session), headers={"Authorization": f"Bearer {token}"})
    assert only_retry(answer) >= 1000
    assert web.hub.followers == 0


async def test_client_that_disconnects_is_forgotten(web: Web) -> None:
    """No follower remains."""
    session, token = await web.submit()
    async with opened(web, session, token) as stream:
        await stream.next()
        assert web.hub.followers_of(session.id) == 1
    await until(lambda: web.hub.followers == 0)


async def test_head_answers_without_following(web: Web) -> None:
    """HEAD answers with the headers and registers nothing."""
    session, token = await web.submit()
    answer = await web.client.head(path(session), headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (await web.client.head(path(session))).status_code == 404
    assert web.hub.followers == 0
