"""Nobody sees anything of the operator's page without an operator's token."""

from __future__ import annotations

import hashlib
import re

import httpx
import pytest

from server.config.settings import Config, ConfigError
from server.domain import operator
from server.web.ops.operations import OPERATIONS
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem
from tests.server.web.ops.conftest import ADA, BEN, bearer

SESSION = "0190a000-0000-7000-8000-000000000000"
OPEN = {"operator_page", "operator_login", "operator_logout"}


def path_of(path: str) -> str:
    return path.replace("{session_id}", SESSION)


async def sign_in(web: Web, token: str = ADA, **headers: str) -> httpx.Response:
    headers = {"Sec-Fetch-Site": "same-origin"} | headers
    return await web.client.post(operator.LOGIN, data={"token": token}, headers=headers)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
async def test_page_is_unknown_without_a_token_in_the_settings(start_web: StartWeb, method: str) -> None:
    """Every path answers as any unknown one, with any method and any token."""
    web = await start_web()
    unknown = await web.client.request(method, "/unknown", headers=bearer())
    for row in OPERATIONS:
        answer = await web.client.request(method, path_of(row.path), headers=bearer())
        assert answer.status_code == 404, row.path
        drop = re.compile(rb'"request_id":"[^"]*"')
        assert drop.sub(b"", answer.content) == drop.sub(b"", unknown.content)


async def test_every_operation_needs_an_operator(web: Web) -> None:
    """No credential, a wrong token, a client's and a forged cookie are refused."""
    session, token = await web.submit()
    forged = f"tryon_ops={hashlib.sha256(ADA.encode()).hexdigest()[:8]}.9999999999.{'0' * 64}"
    same = {"Sec-Fetch-Site": "same-origin"}
    for row in OPERATIONS:
        path = row.path.replace("{session_id}", session.id)
        for number, headers in enumerate(
            ({}, {"Cookie": forged}, bearer("wrong-token-of-22-characters"), bearer(token))
        ):
            if row.name in OPEN and number < 2:
                continue
            if row.method == "POST" and row.name in OPEN:
                continue
            answer = await web.client.request(row.method, path, headers=same | headers)
            assert answer.status_code in (401, 429), (row.name, headers)
            assert session.id.encode() not in answer.content
    form = await web.client.get(operator.PAGE)
    assert form.status_code == 401
    assert "Operator’s token" in form.text
    assert (await web.client.get(f"/api/tryon/sessions/{session.id}", headers=bearer(token))).status_code == 200


async def test_token_opens_every_read(web: Web) -> None:
    """As a bearer token, for programs."""
    for row in OPERATIONS:
        if row.method == "GET" and row.path not in (operator.EVENTS, operator.SESSION):
            answer = await web.client.get(row.path, headers=bearer(BEN))
            assert answer.status_code == 200, row.name
            assert answer.headers["Cache-Control"] == "no-store"


async def test_sign_in_sets_a_cookie_that_scripts_cannot_read(web: Web) -> None:
    """The cookie goes to this page alone, and opens it."""
    answer = await sign_in(web)
    assert (answer.status_code, answer.headers["Location"]) == (303, operator.PAGE)
    cookie = answer.headers["Set-Cookie"]
    for part in ("HttpOnly", "SameSite=Strict", "Path=/ops", f"Max-Age={12 * 3600}"):
        assert part in cookie.split("; ")
    assert ADA not in cookie
    page = await web.client.get(operator.PAGE)
    assert page.status_code == 200
    assert page.headers["Cache-Control"] == "no-store"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "blob:" not in policy
    overview = await web.client.get(operator.OVERVIEW)
    assert overview.json()["operator"] == hashlib.sha256(ADA.encode()).hexdigest()[:8]


async def test_cookie_is_secure_behind_tls(start_web: StartWeb) -> None:
    """A trusted proxy says that the client used TLS."""
    import ipaddress

    web = await start_web(ops_tokens=(ADA,), trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),))
    answer = await sign_in(web, **{"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["Set-Cookie"].split("; ")


async def test_sign_out_ends_the_cookie(web: Web) -> None:
    """The browser forgets it."""
    await sign_in(web)
    answer = await web.client.post(operator.LOGOUT, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 303
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert (await web.client.get(operator.OVERVIEW)).status_code == 401


async def test_cookie_ends_with_its_token(start_web: StartWeb) -> None:
    """A token that is taken out of the settings signs its operator out everywhere."""
    first, second = await start_web(ops_tokens=(ADA, BEN)), await start_web(ops_tokens=(BEN,))
    cookie = (await sign_in(first)).headers["Set-Cookie"].partition(";")[0]
    both = (await sign_in(first, BEN)).headers["Set-Cookie"].partition(";")[0]
    assert (await second.client.get(operator.OVERVIEW, headers={"Cookie": cookie})).status_code == 401
    assert (await second.client.get(operator.OVERVIEW, headers={"Cookie": both})).status_code == 200


@pytest.mark.usefixtures("patient_limits")
async def test_wrong_tokens_are_limited(web: Web) -> None:
    """The right one of the same address is taken all the same: it locks no one out."""
    statuses = [(await sign_in(web, f"wrong-token-number-{n:06}")).status_code for n in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    refused = await sign_in(web, "wrong-token-number-more")
    assert int(refused.headers["Retry-After"]) >= 1
    answer = await web.client.get(operator.OVERVIEW, headers=bearer("wrong-token-number-more"))
    assert_problem(answer, 429, "rate_limited")
    assert (await web.client.get(operator.OVERVIEW, headers=bearer())).status_code == 200
    assert (await sign_in(web)).status_code == 303


@pytest.mark.usefixtures("patient_limits")
async def test_right_tokens_are_not_limited(web: Web) -> None:
    """A program may ask as often as it likes."""
    for _ in range(15):
        assert (await web.client.get(operator.OVERVIEW, headers=bearer())).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
    ],
)
async def test_posts_of_other_sites_are_refused(web: Web, headers: dict[str, str]) -> None:
    """The cookie alone does nothing: another port of the host is the same site."""
    session, _ = await web.submit()
    assert (await sign_in(web)).status_code == 303
    for path in (operator.ERASE, operator.CANCEL, operator.REDRIVE, operator.LOGOUT, operator.LOGIN):
        answer = await web.client.post(path.replace("{session_id}", session.id), headers=headers)
        assert_problem(answer, 400, "bad_request")
    assert await web.database.reader.get(session.id) is not None


async def test_posts_of_the_page_itself_are_taken(web: Web) -> None:
    """By Origin where a browser sends no Sec-Fetch-Site."""
    session, _ = await web.submit()
    await sign_in(web)
    own = {"Origin": f"http://127.0.0.1:{web.port}"}
    answer = await web.client.post(operator.CANCEL.replace("{session_id}", session.id), headers=own)
    assert answer.status_code == 200


async def test_form_shows_what_was_wrong_and_nothing_of_the_token(web: Web) -> None:
    """The page repeats no input."""
    answer = await sign_in(web, "<script>alert(1)</script>")
    assert answer.status_code == 401
    assert "This is no operator's token." in answer.text
    assert "alert(1)" not in answer.text


async def test_long_form_is_refused(web: Web) -> None:
    """A sign-in is a few bytes."""
    assert_problem(await sign_in(web, "x" * 5000), 413, "body_too_large")


@pytest.mark.parametrize(
    "text", ["short", ADA + ",short", "has space in it but is long enough", "ümlaut-0123456789abcdefg"]
)
def test_weak_token_stops_the_start(text: str) -> None:
    """The line names the setting, and not the value."""
    with pytest.raises(ConfigError, match="TRYON_OPS_TOKEN") as refused:
        Config.load({"TRYON_OPS_TOKEN": text}, env_file=None)
    assert text not in str(refused.value)
    assert ADA not in repr(Config(ops_tokens=(ADA,)))
