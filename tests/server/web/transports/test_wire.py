"""A WebSocket byte by byte: early frames, floods, pings and slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as sockets
from collections import Counter
from typing import Any

import pytest
from websockets.asyncio.client import connect

from server.domain.bus_message import PROGRESS, bus_message
from server.web.serving.handshake import Handshake
from server.web.transports.wire import MAX_AFTER_CLOSE_BYTES, WireSocket
from server.web.transports.ws_frames import CLOSE, CONTINUATION, MAX_FRAMES, PING, PONG, TEXT, parse_frames
from testkit.running import StartWeb, Web, until
from tests.server.web.transports.kit import PING_TEXT, raw
from tests.server.web.transports.test_ws_frames import masked

BOTH_PATHS = True


async def test_ping_is_sent_every_period(start_web: StartWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's watchdog can rely on ``ping_seconds``."""
    monkeypatch.setattr(WireSocket, "overdue", lambda wire: None)  # a busy machine answers late
    web = await start_web(ping_seconds=0.1)
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        assert (await client.next())["ping_seconds"] == 0.1
        for _ in range(3):
            assert set(await client.next()) == {"type", "at"}
        assert client.types == ["snapshot", "ping", "ping", "ping"]


async def test_silent_client_is_closed_before_the_next_ping(
    start_web: StartWeb, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed with 4003, and a client that answers is kept."""
    if ws is not Handshake:
        pytest.skip("there uvicorn pings, every 20 s")
    pinged: Counter[WireSocket] = Counter()
    ping = WireSocket.ping

    def count(wire: WireSocket, frame: bytes) -> None:
        pinged[wire] += 1
        ping(wire, frame)

    monkeypatch.setattr(WireSocket, "ping", count)
    web = await start_web(ping_seconds=3600)  # the wheel turns when the test says so
    session, token = await web.submit()
    async with web.follow(session.id, token) as client, raw(web, session.id, token) as silent:
        await client.next("snapshot")
        assert b'"snapshot"' in (await silent.frame())[1]
        both = [wire for wire in web.hub.registry.of(session.id) if isinstance(wire, WireSocket)]
        for wire in both:  # it is their turn next
            web.hub.pings._slots[wire.slot].pop(wire)
            wire.slot = (web.hub.pings._turn + 1) % len(web.hub.pings._slots)
            web.hub.pings._slots[wire.slot][wire] = None
        web.hub.pings.turn()
        await client.next("ping")
        await until(lambda: [wire._pong_due for wire in both].count(True) == 1)  # it has answered
        for _ in web.hub.pings._slots:
            if web.hub.followers == 2:
                web.hub.pings.turn()
        [gone] = [wire for wire in both if wire not in web.hub.registry.of(session.id)]
        assert pinged[gone] == 1
        assert await silent.until_closed() == 4003


async def test_frame_over_4_kib_is_1009(web: Web) -> None:
    """The limit of a message is 4096 bytes."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send("x" * 4097)
        assert await client.rest() == 1009
    await until(lambda: web.hub.followers == 0)


async def test_frames_before_the_answer_are_kept(web: Web, ws: type[asyncio.Protocol]) -> None:
    """Frames are sent without waiting for the 101, the last one cut anywhere."""
    if ws is not Handshake:
        pytest.skip("uvicorn's own drops them")
    session, token = await web.submit()
    for cut in range(len(PING_TEXT) + 1):
        async with raw(web, session.id, token, masked(PING, b"early") + PING_TEXT[:cut]) as client:
            async with asyncio.timeout(5):
                heard: list[tuple[int, bytes]] = []
                while not any(b'"snapshot"' in payload for _, payload in heard):
                    heard.append(await client.frame())
                client.writer.write(PING_TEXT[cut:] + masked(PING, b"late"))
                while (PONG, b"late") not in heard:
                    heard.append(await client.frame())
            assert heard.count((PONG, b"early")) == 1
            client.writer.write(masked(CLOSE, b"\x03\xe8"))
            assert await client.until_closed() == 1000, "broken frame"


@pytest.mark.parametrize(
    "flood",
    [masked(PONG), masked(PING), masked(TEXT, b"", final=False) + masked(CONTINUATION, final=False) * 20_000],
    ids=["pongs", "pings", "fragments"],
)
async def test_flood_of_empty_frames_is_misuse(
    web: Web, ws: type[asyncio.Protocol], flood: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flood is cut after a bounded number of parsed frames."""
    if ws is not Handshake:
        pytest.skip("only a detached socket sees what is no message")
    session, token = await web.submit()
    parsed = 0

    def count(data: bytes, *bounds: int) -> Any:
        nonlocal parsed
        frames, rest = parse_frames(data, *bounds)
        parsed += len(frames)
        return frames, rest

    monkeypatch.setattr("server.web.transports.wire.parse_frames", count)
    async with raw(web, session.id, token) as client:
        assert (await client.frame())[0] == TEXT
        for _ in range(20):
            client.writer.write(flood if len(flood) > 1000 else flood * 20_000)
        assert await client.until_closed() == 4500
        await until(lambda: web.hub.followers == 0)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                await client.reader.read()  # cut off although it never closes
    assert parsed < 2 * MAX_FRAMES + MAX_AFTER_CLOSE_BYTES // 6


async def test_pongs_to_our_pings_do_not_count(
    start_web: StartWeb, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only pongs that answer nothing count as messages."""
    if ws is not Handshake:
        pytest.skip("the other path answers pings before we see them")
    monkeypatch.setattr("server.web.transports.inbound.INBOUND_LIMIT", 3)
    web = await start_web(ping_seconds=3600)  # the test pings: on a busy machine two may precede one pong
    session, token = await web.submit()
    async with raw(web, session.id, token) as client, asyncio.timeout(20):
        assert b'"snapshot"' in (await client.frame())[1]
        (wire,) = web.hub.registry.of(session.id)
        assert isinstance(wire, WireSocket)
        for _ in range(8):
            wire.ping(b'{"type":"ping"}')
            assert [(await client.frame())[0] for _ in range(2)] == [TEXT, PING]
            client.writer.write(masked(PONG))
            await until(lambda: not wire._pong_due)
        client.writer.write(masked(PONG) * 5)  # these answer nothing
        assert await client.until_closed() == 4500


async def test_frames_after_our_close_are_ignored(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends as soon as the client answers the close frame."""
    monkeypatch.setattr("server.web.transports.wire.CLOSE_SECONDS", 60)  # our patience with a silent one
    session, token = await web.submit()
    claim = await web.begin(session)
    async with raw(web, session.id, token) as client:
        await client.frame()
        await web.complete(claim)
        assert await client.until_closed() == 1000
        client.writer.write(PING_TEXT * 50 + masked(CLOSE, b"\x03\xe8"))
        async with asyncio.timeout(20):
            assert await client.reader.read() == b""


async def test_slow_reader_is_dropped_alone(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client of the same session gets every frame meanwhile."""
    monkeypatch.setattr(
        "server.web.transports.asgi_socket.SEND_SECONDS", 1.5
    )  # the other one takes its megabytes in less
    session, token = await web.submit()
    claim = await web.begin(session)
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", web.port))
    raw.setblocking(False)
    deaf = connect(
        web.ws_url(session.id),
        sock=raw,
        subprotocols=["tryon.v1", f"tryon.bearer.{token}"],  # type: ignore[list-item]
        proxy=None,
        max_queue=1,
        close_timeout=0.1,
    )
    async with deaf as stuck, web.follow(session.id, token, max_size=None) as reader:
        stuck.transport.pause_reading()
        await reader.next("snapshot")
        await until(lambda: web.hub.followers == 2)
        large = json.dumps({"type": "progress", "seq": 2, "progress": 0.5, "stage": "x" * 1_000_000}).encode()
        for _ in range(20):
            await web.services.bus.publish(session.id, bus_message(PROGRESS, 2, 1, large))
            await reader.next("progress")
        await until(lambda: web.hub.followers == 1, seconds=20)
        await web.complete(claim)
        assert await reader.rest() == 1000
        assert reader.story() == [2, 3]
        stuck.transport.abort()
