"""The same photo with the next garment, and a session's own webhook."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import select

from server.adapters.database import tables
from server.domain.tokens import new_token
from server.sessions import processors
from testkit.photos import small
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem, picture
from tests.server.web.api.calls import bearer, do, files_of, with_garment
from tryon.processor import Info, Role
from tryon.processor.description import describe
from tryon.protocol.paths import SESSIONS

pytestmark = pytest.mark.usefixtures("database_url")  # SQLite and PostgreSQL

PERSON, CLOTHES = Role(name="person", required=True), Role(name="garment")
HOOK = "https://hooks.shop.example/tryon"
ALLOWED = {"webhook_hosts": ("hooks.shop.example",), "webhook_secrets": (bytes(32),)}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what a worker publishes judge the next upload."""
    monkeypatch.setattr(processors, "FRESH_SECONDS", 0.0)


async def post(
    web: Web, token: str, texts: dict[str, str], *, garment: bool = False, key: str | None = None
) -> httpx.Response:
    """Upload a garment, if any, with these text fields."""
    parts: list[tuple[str, Any]] = [(name, (None, value)) for name, value in texts.items()]
    if garment:
        parts.append(("garment", ("shirt.jpg", small())))
    headers = bearer(token) | ({"Idempotency-Key": key} if key else {})
    return await web.client.post(SESSIONS, files=parts, headers=headers)


async def file(web: Web, session: dict[str, Any], role: str) -> bytes:
    [found] = [each for each in session["inputs"] if each["role"] == role]
    answer = await web.client.get(found["link"])
    assert answer.status_code == 200
    return answer.content


async def test_photo_is_copied_for_next_garment(web: Web) -> None:
    """The new session has its own copy, the new garment, and the same expiry."""
    token = new_token()
    original = await with_garment(web, token)
    old = (await do(web, "get", original.id, token)).json()
    answer = await post(web, token, {"from": original.id}, garment=True)
    new = answer.json()
    assert answer.status_code == 201, new
    assert (new["copy_of"], new["expires_at"], new["retry_of"]) == (original.id, old["expires_at"], None)
    assert [each["role"] for each in new["inputs"]] == ["person", "garment"]
    assert new["session_id"] in new["links"]["input"]
    assert await file(web, new, "person") == await file(web, old, "person")
    assert await file(web, new, "garment") != await file(web, old, "garment")
    trail = (await do(web, "history", new["session_id"], token)).json()
    assert trail["events"][0]["data"]["copy_of"] == original.id


async def test_all_photos_are_copied_when_none_is_sent(web: Web) -> None:
    """The same try-on with other parameters."""
    token = new_token()
    original = await with_garment(web, token)
    new = (await post(web, token, {"params": '{"size": "L"}', "from": original.id})).json()
    assert [each["role"] for each in new["inputs"]] == ["person", "garment"]
    assert new["params"] == {"size": "L"}


@pytest.mark.parametrize(
    ("roles", "status", "code", "part"),
    [
        ((PERSON,), 422, "unknown_input", "garment"),
        ((Role(name="person", formats=("image/png",)), CLOTHES), 415, "unsupported_image", "person"),
        ((Role(name="person", max_bytes=10), CLOTHES), 413, "body_too_large", "person"),
        ((Role(name="person", max_pixels=10), CLOTHES), 422, "too_many_pixels", "person"),
        ((PERSON, CLOTHES, Role(name="mask", required=True)), 422, "missing_image", "mask"),
    ],
)
async def test_copy_is_judged_as_an_upload(
    web: Web, roles: tuple[Role, ...], status: int, code: str, part: str
) -> None:
    """By the processor of now, with the codes of an upload; nothing is stored."""
    token = new_token()
    photos = [("person", ("me.jpg", small())), ("garment", ("shirt.png", picture()))]
    original = (await web.client.post(SESSIONS, files=photos, headers=bearer(token))).json()
    before = len(files_of(web))
    await web.services.sessions.processors.publish("worker", describe(Info(name="mock", roles=roles)))
    answer = await post(web, token, {"from": original["session_id"]})
    assert_problem(answer, status, code)
    assert answer.json()["part"] == part
    assert len(files_of(web)) == before


async def test_photo_that_is_not_copied_is_not_judged(web: Web) -> None:
    """What is sent takes its place, and is judged instead."""
    token = new_token()
    original = await with_garment(web, token)
    roles = (PERSON, Role(name="garment", formats=("image/jpeg",)))  # the original's is a PNG
    await web.services.sessions.processors.publish("worker", describe(Info(name="mock", roles=roles)))
    assert_problem(await post(web, token, {"from": original.id}), 415, "unsupported_image")
    assert (await post(web, token, {"from": original.id}, garment=True)).status_code == 201


async def test_foreign_or_unknown_session_is_not_found(web: Web) -> None:
    """They look the same, and nothing is stored."""
    original = await with_garment(web, new_token())
    before = len(files_of(web))
    for wanted in (original.id, original.id[:-1] + "0", "../x", "x" * 64, "x" * 65, "é"):
        answer = await post(web, new_token(), {"from": wanted}, garment=True)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), wanted
    assert len(files_of(web)) == before


async def test_empty_field_is_no_session(web: Web) -> None:
    """A browser sends an unfilled field."""
    answer = await post(web, new_token(), {"from": ""}, garment=True)
    assert (answer.status_code, answer.json()["code"], answer.json()["part"]) == (422, "missing_image", "person")


async def test_deleting_original_erases_its_copies(web: Web) -> None:
    """And the copies of copies: the receipt names every file, and none is left."""
    token = new_token()
    original = await with_garment(web, token)
    copy = (await post(web, token, {"from": original.id}, garment=True)).json()
    second = (await post(web, token, {"from": copy["session_id"]})).json()
    receipt = (await do(web, "delete", original.id, token)).json()
    ids = {original.id, copy["session_id"], second["session_id"]}
    assert {each["session_id"] for each in receipt["files"]} == ids
    assert files_of(web) == []
    for each in ids:
        assert (await do(web, "get", each, token)).status_code == 404


async def test_deleting_copy_leaves_original(web: Web) -> None:
    """It is erased alone."""
    token = new_token()
    original = await with_garment(web, token)
    copy = (await post(web, token, {"from": original.id}, garment=True)).json()
    await do(web, "delete", copy["session_id"], token)
    assert (await do(web, "get", copy["session_id"], token)).status_code == 404
    assert (await do(web, "get", original.id, token)).status_code == 200


async def test_copy_is_repeated_by_its_key_alone(web: Web) -> None:
    """Another original under the same key is another request."""
    token = new_token()
    originals = [await with_garment(web, token) for _ in range(2)]
    answers = [
        await post(web, token, {"from": each.id}, key="one") for each in (originals[0], originals[0], originals[1])
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 422]
    assert answers[0].json()["session_id"] == answers[1].json()["session_id"]


async def test_own_webhook_is_stored_when_allowed(start_web: StartWeb) -> None:
    """In place of the settings' own."""
    web = await start_web(**ALLOWED)
    token = new_token()
    original = await with_garment(web, token)
    new = (await post(web, token, {"webhook": HOOK, "from": original.id})).json()
    async with web.database.connections.read() as connection:
        rows = (await connection.execute(select(tables.deliveries.c.session_id, tables.deliveries.c.url))).all()
    assert [tuple(row) for row in rows] == [(new["session_id"], HOOK)]


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/",
        "http://hooks.shop.example/",
        "https://hooks.shop.example:8443/",
        "nonsense",
        "https://" + "a" * 1100,
    ],
)
async def test_own_webhook_is_refused_elsewhere(start_web: StartWeb, url: str) -> None:
    """A client cannot make the server call any address."""
    web = await start_web(**ALLOWED)
    token = new_token()
    original = await with_garment(web, token)
    answer = await post(web, token, {"webhook": url, "from": original.id})
    assert (answer.status_code, answer.json()["code"], answer.json()["part"]) == (422, "bad_webhook", "webhook")
