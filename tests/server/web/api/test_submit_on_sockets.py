"""Uploads to the real server, byte for byte as unusual clients send them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from server.web.api import pace
from testkit.running import Web
from testkit.uploads import NOTHING, picture, stored
from tryon.protocol.paths import SESSIONS

DISPOSITION = b'Content-Disposition: form-data; name="image"; filename="p.png"\r\n'
BODY = b"--x\r\n" + DISPOSITION + b"\r\n" + picture() + b"\r\n--x--\r\n"


def head(length: int, *more: str) -> bytes:
    """Return the head of an upload with a body of this length."""
    lines = [
        f"POST {SESSIONS} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: multipart/form-data; boundary=x",
        f"Content-Length: {length}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of the next answer."""
    async with asyncio.timeout(20):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(first.split(" ")[1]), headers, json.loads(body) if body else None


@pytest.mark.parametrize(
    "body",
    [
        b"This is a multi-part message in MIME format.\r\n" + BODY,
        BODY.replace(b"--x\r\n", b"--x \t\r\n", 1),
        BODY.replace(b"; ", b";\r\n "),
        BODY + b"an epilogue\r\n--x\r\n",
        BODY.replace(b'name="image"; filename="p.png"', b"filename=\"p;.png\"; filename*=utf-8''p.png; NAME=image"),
        BODY.replace(b"Content-Disposition", b"content-DISPOSITION"),
        BODY.replace(DISPOSITION, b"Content-Transfer-Encoding: 8bit\r\n" + DISPOSITION),
    ],
    ids=["preamble", "padding", "folded", "epilogue", "filename-first", "case", "transfer-encoding"],
)
async def test_upload_accepts_what_the_standards_allow(web: Web, body: bytes) -> None:
    """Each is a valid form of RFC 2046 and RFC 7578."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(head(len(body)) + body)
    status, _, answer = await answer_of(reader)
    assert (status, answer.get("status")) == (201, "created"), answer
    writer.close()


async def test_expectation_is_answered_before_the_body(web: Web) -> None:
    """A client that waits for it gets 100, then its answer (RFC 9110 10.1.1)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(head(len(BODY), "Expect: 100-continue"))
    assert (await answer_of(reader))[0] == 100
    writer.write(BODY)
    assert (await answer_of(reader))[0] == 201
    writer.close()


@pytest.mark.parametrize(
    ("length", "headers", "status"),
    [
        (99_000_000, [], 413),
        (1000, ["Content-Encoding: gzip"], 415),
        (1000, ["X-Client-Token: short"], 401),
        (1000, ["Idempotency-Key: a b"], 400),
    ],
)
async def test_expectation_is_refused_by_the_head(web: Web, length: int, headers: list[str], status: int) -> None:
    """A client that waits is not asked for a body that would be refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(head(length, "Expect: 100-continue", *headers))
    assert (await answer_of(reader))[0] == status
    writer.close()


async def test_stalled_upload_is_closed_with_408(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told, the connection ends, and nothing stays."""
    monkeypatch.setattr(pace, "WINDOW_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(head(len(BODY)) + BODY[:-20])
    status, headers, problem = await answer_of(reader)
    assert (status, problem["code"], problem["retryable"]) == (408, "too_slow", True)
    assert (headers["content-type"], headers["connection"]) == ("application/problem+json", "close")
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    assert await stored(web) == NOTHING
