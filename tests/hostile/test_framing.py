"""Requests and frames byte by byte: each case of the tables gets what it must get."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from testkit.running import StartWeb, Web
from tests.hostile import frame_cases, http_cases
from tests.hostile.frame_cases import ALIVE, FRAMES
from tests.hostile.http_cases import CLOSED, HTTP, Statuses

SECONDS = 15.0
"""Longest wait for answers that must come."""
QUIET_SECONDS = 0.15
"""Wait for an answer that must not come."""


async def answers(web: Web, case: http_cases.Case) -> list[int]:
    """Return the statuses that come back, with CLOSED at the end of the connection.

    Waits for as many as are expected, and a little for more.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    heard: list[int] = []
    try:
        with contextlib.suppress(ConnectionError):  # refused before all was sent
            writer.write(case.data)
            await writer.drain()
        heads = iter(case.data.startswith(b"HEAD ") for _ in (0,))
        with contextlib.suppress(TimeoutError):
            while not heard or heard[-1] != CLOSED:
                async with asyncio.timeout(SECONDS if len(heard) < len(case.answers) else QUIET_SECONDS):
                    heard.append(await one_answer(reader, bodiless=next(heads, False)))
    finally:
        writer.transport.abort()
    return heard


async def one_answer(reader: asyncio.StreamReader, *, bodiless: bool) -> int:
    """Read one answer to its end; return its status, CLOSED without one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
        assert b"transfer-encoding" not in fields, "these answers have a length"
        await reader.readexactly(0 if bodiless else int(fields.get(b"content-length", b"0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return CLOSED
    return int(head.split(b" ", 2)[1])


def fits(heard: Sequence[int], expected: Sequence[Statuses]) -> bool:
    """Return whether the answers are the expected ones.

    A connection may be closed after the last of them.
    """
    if len(heard) == len(expected) + 1 and heard[-1] == CLOSED:
        heard = heard[:-1]
    return len(heard) == len(expected) and all(
        one in (each if isinstance(each, tuple) else (each,)) for one, each in zip(heard, expected, strict=True)
    )


@pytest.mark.parametrize("kind", HTTP)
async def test_requests_get_their_answers(web: Web, kind: str) -> None:
    """Each gets the statuses of its row, and no request is answered twice."""
    seen = await asyncio.gather(*(answers(web, case) for case in HTTP[kind]))
    wrong = [
        f"{case.name}: {heard}, not {case.answers}"
        for case, heard in zip(HTTP[kind], seen, strict=True)
        if not fits(heard, case.answers)
    ]
    assert not wrong, "\n".join(wrong)
    assert (await web.client.get("/api/health/live")).status_code == 200


async def close_code(web: Web, session_id: str, token: str, case: frame_cases.Case) -> int:
    """Return the close code that the bytes bring, or ALIVE if a ping is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    head = (
        f"GET /api/tryon/sessions/{session_id}/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Client-Token: {token}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(SECONDS):
            writer.write(head.encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            await frame_of(reader)  # the snapshot
            writer.write(case.data)
            if case.answer == ALIVE:
                writer.write(frame_cases.frame(frame_cases.TEXT, b'{"type":"ping"}'))
            while True:
                opcode, payload = await frame_of(reader)
                if opcode == frame_cases.CLOSE:
                    return int.from_bytes(payload[:2])
                if opcode == frame_cases.TEXT and b'"pong"' in payload:
                    return ALIVE
    finally:
        writer.transport.abort()


async def frame_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one frame of the server; return its opcode and payload."""
    first, length = await reader.readexactly(2)
    if length == 126:
        length = int.from_bytes(await reader.readexactly(2))
    return first & 15, await reader.readexactly(length)


async def test_frames_get_their_close_codes(start_web: StartWeb) -> None:
    """Each closes the socket with the code of its row, or leaves it alive."""
    web = await start_web(sockets_per_address=len(FRAMES), sockets_per_session=len(FRAMES))
    session, token = await web.submit()
    seen = await asyncio.gather(*(close_code(web, session.id, token, case) for case in FRAMES))
    wrong = [
        f"{case.name}: {heard}, not {case.answer}"
        for case, heard in zip(FRAMES, seen, strict=True)
        if heard != case.answer
    ]
    assert not wrong, "\n".join(wrong)


def test_tables_have_enough_cases() -> None:
    """At least 150 in all, each with a name of its own."""
    names = [f"{kind}: {case.name}" for kind, cases in HTTP.items() for case in cases]
    names += [f"frames: {case.name}" for case in FRAMES]
    assert len(names) == len(set(names)) >= 150
