"""Request ids, and the secrets that are never logged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect

from server.config.settings import Config
from server.domain.tokens import new_token, token_hash
from testkit.fixtures import StartStack
from testkit.running import Client, Web
from testkit.uploads import picture
from tryon.protocol.paths import SESSIONS

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("given", ["abc-123", "X" * 64])
async def test_valid_request_id_is_kept(web: Web, given: str) -> None:
    """The id that a caller sends comes back, on errors, too."""
    for path in ("/api/health/live", "/nothing"):
        assert (await web.client.get(path, headers={"X-Request-ID": given})).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "has space", "x" * 65, "ümlaut", "a\tb", "semi;colon"])
async def test_invalid_request_id_is_replaced(web: Web, given: str) -> None:
    """An id of other characters, or a longer one, gives way to a UUID."""
    answer = await web.client.get("/api/health/live", headers=[(b"X-Request-ID", given.encode())])
    assert answer.headers["X-Request-ID"] != given
    assert re.fullmatch(r"[A-Za-z0-9-]{36}", answer.headers["X-Request-ID"])


# -- log lines -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
async def test_logs_hold_no_secrets(stack: StartStack, form: str) -> None:
    """No token, ticket or signature reaches a log line or a metric."""
    token, wrong = new_token(), new_token()
    running = await stack(TRYON_LOG_FORMAT=form, TRYON_LOG_LEVEL="debug")
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=15) as http:
        mine = {"Authorization": f"Bearer {token}"}
        posted = await http.post(
            SESSIONS, files={"image": ("me.png", picture())}, headers=mine | {"X-Request-ID": "the-upload"}
        )
        session = posted.json()
        made = (await http.post(SESSIONS, files={"image": ("me.png", picture())})).json()["client_token"]
        ws = running.url.replace("http", "ws", 1)
        async with connect(ws + session["links"]["ws"], proxy=None) as connection:
            client = Client(connection)
            assert await client.rest() == 1000
        output = next(frame["data"]["output"] for frame in client.frames if frame.get("event") == "completed")
        async with connect(
            f"{ws}{SESSIONS}/{session['session_id']}/ws",
            subprotocols=["tryon.v1", f"tryon.bearer.{wrong}"],  # type: ignore[list-item]
            proxy=None,
        ) as connection:
            assert await Client(connection).rest() == 4504
        for url, headers in [
            (output, {}),
            (output[:-4] + "AAAA", {}),
            (session["links"]["events"], {}),
            (f"{SESSIONS}/{session['session_id']}", mine),
            (f"{SESSIONS}/{session['session_id']}", {"X-Client-Token": wrong}),
            (f"{SESSIONS}/{session['session_id']}?ticket=a.1.{wrong}", {}),
            (f"/nothing?ticket={wrong}", {}),
        ]:
            await http.get(url, headers=headers)
        metrics = (await http.get("/metrics")).text
    await running.stop()
    secrets = [token, wrong, made]
    secrets += [session["links"][name].rpartition(".")[2] for name in ("ws", "events")]
    secrets += [parse_qs(urlsplit(link).query)["signature"][0] for link in (output, session["links"]["input"])]
    for secret in secrets:
        assert len(secret) > 20
        assert secret not in running.output, secret
        assert secret not in metrics
    assert session["session_id"] in running.output
    if form == "text":
        for line in (
            r"\[the-upload\] POST /api/tryon/sessions - Client: 127\.0\.0\.1",
            rf"Created session {session['session_id']} for user {token_hash(token)[:8]}\b",
            r"Session state transition: created → processing",
            rf"Processing session {session['session_id']} .*the-upload",
            rf"Session {session['session_id']} completed successfully .*the-upload",
            rf"Saved input file: inputs/{session['session_id']}-person-0\.\w+",
            r"\[the-upload\] Completed 201 in \d+\.\d{3}s",
        ):
            assert re.search(line, running.output), line
    else:
        entries = [json.loads(line) for line in running.output.splitlines() if line.startswith("{")]
        logged = [entry for entry in entries if entry.get("request_id") == "the-upload"]
        assert any(entry["message"].startswith("Processing session") for entry in logged), "the worker carries it, too"


async def test_path_cannot_forge_log_line(stack: StartStack, redis_url: str, config: MakeConfig) -> None:
    """Line breaks and escape sequences in a path are not written as such."""
    settings = config()
    environment: dict[str, Any] = {
        "TRYON_REDIS_URL": redis_url,
        "TRYON_DATABASE_URL": settings.database,
        "TRYON_LOG_FORMAT": "text",
    }
    running = await stack("serve", ready=False, **environment)
    port = (await running.line(r"Listening on http://127\.0\.0\.1:(\d+)"))[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        await http.get("/x%0aFORGED%20line%0d%1b[31m")
        await http.get("/api/health/live")
    await running.stop()
    assert not any(line.startswith("FORGED") for line in (*running.lines, *running.errors))
    assert "\x1b[31m" not in running.output
