"""Uploads read by the application of :mod:`tests.server.web.api.forms`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import pytest

from server.config.settings import Config
from server.sessions.roles import DEFAULT_ROLES, Roles
from tests.server.web.api.forms import BOUNDARY, Answer, Post, app


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """Return settings with an empty folder for uploads."""
    config = Config(data_dir=tmp_path)
    config.uploads_dir.mkdir()
    return config


@pytest.fixture
def post(settings: Config) -> Post:
    """Return a function that posts a body and returns the answer."""

    async def post(
        body: bytes | Iterable[bytes],
        *,
        config: Config = settings,
        content_type: str | None = f"multipart/form-data; boundary={BOUNDARY}",
        headers: dict[str, str] | None = None,
        roles: Roles = DEFAULT_ROLES,
    ) -> Answer:
        async def chunked() -> AsyncIterator[bytes]:
            for chunk in body:
                assert isinstance(chunk, bytes)
                yield chunk

        sent = {"content-type": content_type} if content_type is not None else {}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app(config, roles=roles)), base_url="http://test"
        ) as client:
            content = body if isinstance(body, bytes) else chunked()
            response = await client.post("/", content=content, headers=sent | (headers or {}))
        answer: Answer = {"status": response.status_code, **response.json()}
        if answer["code"] == "ok":
            return answer
        assert set(answer) - {"part", "pointer"} == {"status", "code"}
        return answer

    return post
