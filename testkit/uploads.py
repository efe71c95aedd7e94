"""Uploads over HTTP, checks of their answers and of the data they leave behind."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import httpx
from PIL import Image
from sqlalchemy import func, select

from server.adapters.database import tables
from testkit.running import Web
from tryon.protocol.paths import SESSIONS


def picture(size: tuple[int, int] = (100, 120), kind: str = "PNG") -> bytes:
    """Return an image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(buffer, kind)
    return buffer.getvalue()


def form(image: bytes | None = None, **more: Any) -> dict[str, Any]:
    """Return the parts of an upload."""
    return {"image": ("photo.png", picture() if image is None else image, "image/png")} | more


async def upload(web: Web, token: str | None = None, **headers: str) -> httpx.Response:
    return await web.client.post(SESSIONS, files=form(), headers=headers | ({"X-Client-Token": token} if token else {}))


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    """Check a refusal: RFC 9457, with the fields that the contract adds."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    problem = answer.json()
    named = {"limit"} if code == "rate_limited" else set()
    assert (
        set(problem) - {"part", "pointer"}
        == {"type", "title", "status", "detail", "code", "retryable", "request_id"} | named
    )
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"] and problem["detail"] and isinstance(problem["retryable"], bool)
    assert problem["request_id"] == answer.headers["X-Request-ID"]


async def stored(web: Web) -> tuple[list[str], int, int]:
    """Return the stored files, and the numbers of rows and events."""
    root = web.config.uploads_dir
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    async with web.database.connections.read() as connection:
        rows = (await connection.execute(select(func.count()).select_from(tables.sessions))).scalar_one()
        events = (await connection.execute(select(func.count()).select_from(tables.events))).scalar_one()
    return files, rows, events


NOTHING: Final[tuple[list[str], int, int]] = ([], 0, 0)
"""Return value of :func:`stored` when nothing is stored."""


@contextlib.asynccontextmanager
async def unavailable_database(postgres_url: str) -> AsyncIterator[None]:
    """Cut all connections to this PostgreSQL database, and refuse new ones."""
    server, _, name = postgres_url.replace("+asyncpg", "").rpartition("/")
    admin = await asyncpg.connect(f"{server}/postgres")
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        try:
            yield
        finally:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await admin.close()
