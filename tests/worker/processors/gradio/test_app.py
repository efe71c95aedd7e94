"""What the answers of a Gradio app mean."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tryon.processor import ProcessorError
from worker.processors.gradio import app
from worker.processors.gradio.app import Config, Visit, checked, type_of
from worker.processors.gradio.failures import BUSY_SECONDS, COLD_SECONDS
from worker.processors.upstream import Answer, Upstream


def answer(status: int, body: Any = None, **headers: str) -> Answer:
    return Answer(status, httpx.Headers(headers), b"<html>" if body is None else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("given", "code", "retry_after"),
    [
        (answer(503, {"detail": "Queue is full. Max size is 2 and size is 2."}), "backend_busy", BUSY_SECONDS),
        (answer(503, {"detail": "Queue is full."}, **{"Retry-After": "40"}), "backend_busy", 40),
        (answer(503, {"detail": "Queue is stopped."}), "backend_cold", COLD_SECONDS),
        (answer(503), "backend_cold", COLD_SECONDS),
        (answer(502), "backend_cold", COLD_SECONDS),
        (answer(401), "backend_auth", None),
        (answer(400, {"detail": "No person was found"}), "person_not_found", None),
        (answer(422, {"detail": [{"is_valid": False, "message": "no pose"}]}), "pose_not_supported", None),
        (answer(422, {"detail": [{"loc": ["body"], "msg": "Field required"}]}), "processor_error", None),
    ],
)
def test_refusal_has_code(given: Answer, code: str, retry_after: float | None) -> None:
    """A full queue is waited for, and so is an app that starts."""
    with pytest.raises(ProcessorError) as raised:
        checked(given, ())
    assert (raised.value.code, raised.value.retry_after) == (code, retry_after)


def test_config_finds_functions_of_old_and_new_versions() -> None:
    """Gradio 4 has no prefix and no numbers; names may begin with a slash."""
    new = Config.parse(
        {
            "protocol": "sse_v3",
            "api_prefix": "/gradio_api",
            "dependencies": [{"id": 7, "api_name": "tryon"}, {"id": 9, "api_name": None}, {"id": 8, "api_name": False}],
        }
    )
    assert (new.path("upload"), new.function("tryon")) == ("gradio_api/upload", 7)
    old = Config.parse({"protocol": "sse_v2", "dependencies": [{"api_name": "a"}, {"api_name": "/b"}]})
    assert (old.path("upload"), old.function("b")) == ("/upload", 1)
    with pytest.raises(ValueError, match="no function 'c'; it has a, b"):
        old.function("c")


@pytest.mark.parametrize("value", [None, {}, {"dependencies": 1}, {"dependencies": [], "protocol": "ws"}])
def test_other_answer_is_no_config(value: Any) -> None:
    """A page of another server, or a version that speaks another protocol."""
    with pytest.raises(ValueError, match=r"not that of a Gradio app|speaks"):
        Config.parse(value)


@pytest.mark.parametrize(
    ("data", "type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"....ftypisom", "video/mp4"),
        (b"\x1a\x45\xdf\xa3", "video/webm"),
        (b"GIF89a", None),
        (b"", None),
    ],
)
def test_type_is_read_from_first_bytes(data: bytes, type: str | None) -> None:
    """Neither a name nor a header is believed."""
    assert type_of(data) == type


@pytest.mark.parametrize("broken", [5, 6])
async def test_download_is_repeated_when_connection_breaks(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that is away for a while does not cost a run that has ended well."""
    monkeypatch.setattr(app, "DOWNLOAD_PAUSE_SECONDS", 0.001)
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        bodies = {1: b"0\r\n\r\n", broken + 1: b"12\r\n\r\nRIFF....WEBP"}  # empty, broken off, whole
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: " + bodies.get(len(asked), b"12\r\n\r\nRIFF"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        upstream = Upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        fetching = Visit(upstream, (), Config("api", "sse_v3", {}), {}).fetch({"path": "/tmp/a b?.webp"})
        if broken == 6:
            with pytest.raises(ProcessorError, match="backend_unreachable"):
                await fetching
        else:
            assert (await fetching).type == "image/webp"
        await upstream.close()

    assert len(asked) == 6
    assert asked[0].startswith(b"GET /api/file=/tmp/a%20b%3F.webp HTTP/1.1")
