"""Calls of the session verbs, and a look at everything that a session leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import redis.asyncio as redis
from sqlalchemy import text

from server.domain.session import Session
from server.domain.tokens import new_token, token_hash
from testkit.running import GARMENT, PHOTO, Web
from tryon.protocol.paths import SESSIONS


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


async def do(web: Web, verb: str, session_id: str, token: str) -> httpx.Response:
    """Call cancel, retry, delete, history or get for a session."""
    path = f"{SESSIONS}/{session_id}"
    method = {"delete": "DELETE", "get": "GET", "history": "GET"}.get(verb, "POST")
    return await web.client.request(
        method, path if verb in ("delete", "get") else f"{path}/{verb}", headers=bearer(token)
    )


async def with_garment(web: Web, token: str) -> Session:
    """Store a session with a photo, a garment and params."""
    return await web.services.sessions.submissions.submit(
        owner=token_hash(token),
        inputs=[PHOTO, GARMENT],
        params={"size": "M"},
        request_id=None,
    )


async def failed(web: Web, token: str | None = None) -> tuple[Session, str]:
    """Store a session that has failed; return it and its token."""
    token = token or new_token()
    session = await with_garment(web, token)
    assert await web.services.sessions.claims.fail(await web.begin(session), "mock_failure")
    return session, token


def files_of(web: Web) -> list[Path]:
    """Return all stored files."""
    return [path for path in web.config.uploads_dir.rglob("*") if path.is_file()]


async def listed(web: Web, token: str, **query: Any) -> dict[str, Any]:
    """Return one page of the owner's sessions."""
    answer = await web.client.get(SESSIONS, params=query, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def traces(web: Web, session_id: str) -> list[str]:
    """Return each trace of a session: files, rows, Redis keys, values."""
    names = (session_id, session_id.replace("-", ""))
    found = [str(path) for path in files_of(web) if session_id in path.name]
    async with web.database.connections.engine.connect() as connection:
        for table in ("tryon_sessions", "tryon_files", "tryon_events", "tryon_cleanups", "tryon_gone", "tryon_leases"):
            for row in (await connection.execute(text(f"SELECT * FROM {table}"))).all():
                found += [f"{table}: {row}" for name in names if name in str(row)]
    client = redis.Redis.from_url(web.config.redis, decode_responses=True)
    async with client:
        for key in [key async for key in client.scan_iter()]:
            kind = await client.type(key)
            value: Any = {
                "string": client.get,
                "hash": client.hgetall,
                "list": lambda k: client.lrange(k, 0, -1),
                "set": client.smembers,
                "zset": lambda k: client.zrange(k, 0, -1),
            }[kind](key)
            content = f"{key}: {await value}"
            found += [content for name in names if name in content]
    return found
