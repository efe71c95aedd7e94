"""Refusals that no endpoint makes: unknown routes and methods."""

from __future__ import annotations

import errno
import logging

import pytest
from starlette.requests import Request
from starlette.responses import Response

from server.web.api.pages import PageEndpoints
from testkit.running import Web
from testkit.uploads import assert_problem
from tryon.protocol.paths import SESSIONS


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/tryon", f"{SESSIONS}/x/y/z", "/static/nothing.js"])
async def test_unknown_route_is_a_problem(web: Web, path: str) -> None:
    """A path without a route gets the same kind of answer as any refusal."""
    assert_problem(await web.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", SESSIONS, {"GET", "HEAD", "POST"}),
        ("POST", f"{SESSIONS}/x", {"GET", "HEAD", "DELETE"}),
        ("DELETE", "/metrics", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
    ],
)
async def test_wrong_method_lists_allowed_methods(web: Web, method: str, path: str, allow: set[str]) -> None:
    """Allow names the methods of all routes with that path."""
    answer = await web.client.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allow


async def test_lack_of_descriptors_is_a_503(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is asked to come back, and the log gets one line without a trace."""

    async def exhausted(endpoints: PageEndpoints, request: Request) -> Response:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(PageEndpoints, "page", exhausted)
        answer = await web.client.get("/")
    assert_problem(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    [line] = [record for record in caplog.records if "No file descriptor is left" in record.getMessage()]
    assert line.exc_info is None
    assert not [record for record in caplog.records if record.name == "tryon.web" and record.levelno >= logging.ERROR]
    assert (await web.client.get("/")).status_code == 200
