"""Uploads are judged by what the processor says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testkit.running import StartWeb, Web
from testkit.uploads import NOTHING, assert_problem, form, picture, stored
from tryon.processor import Info, Role
from tryon.processor.description import describe
from tryon.protocol.paths import SESSIONS

ROLES = (
    Role(name="model", required=True, formats=("image/jpeg", "image/png"), max_pixels=200 * 200),
    Role(name="garment", required=True, count=2),
    Role(name="mask", max_bytes=2000),
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 30},
        "crop": {"type": "object", "properties": {"mode": {"enum": ["tight", "wide"], "default": "wide"}}},
    },
}
GARMENT = ("shirt.png", picture())


@pytest.fixture
async def web(start_web: StartWeb) -> Web:
    """Return a web process whose processor has other roles than the mock."""
    web = await start_web(processor="acme")
    info = Info(name="fit", roles=ROLES, params_schema=SCHEMA)
    await web.services.sessions.processors.publish("worker", describe(info))
    return web


async def test_upload_carries_inputs_by_role(web: Web) -> None:
    """The first role is also called image; several parts of a role keep their order."""
    first, second = picture((90, 100)), picture((100, 90))
    for name in ("model", "image"):
        files = [(name, ("me.png", picture())), ("garment", ("1", first)), ("garment", ("2", second))]
        answer = await web.client.post(SESSIONS, files=files)
        assert answer.status_code == 201, answer.text
        inputs = [(each["role"], each["index"], each["width"]) for each in answer.json()["inputs"]]
        assert inputs == [("model", 0, 100), ("garment", 0, 90), ("garment", 1, 100)]


@pytest.mark.parametrize(
    ("parts", "status", "code", "part"),
    [
        ([("garment", picture())], 422, "missing_image", "model"),
        ([("image", b""), ("garment", picture())], 422, "missing_image", "image"),
        ([("image", picture())], 422, "missing_image", "garment"),
        ([("image", picture()), ("model", picture()), ("garment", picture())], 422, "unknown_input", "model"),
        ([("image", picture()), ("person", picture())], 422, "unknown_input", "person"),
        ([("image", picture())] + [("garment", picture())] * 3, 422, "unknown_input", "garment"),
        ([("image", picture(kind="WEBP")), ("garment", picture())], 415, "unsupported_image", "image"),
        ([("image", picture((201, 200))), ("garment", picture())], 422, "too_many_pixels", "image"),
        ([("mask", picture() + bytes(3000)), ("image", picture())], 413, "body_too_large", "mask"),
    ],
)
async def test_upload_is_refused_by_the_rules_of_a_role(
    web: Web, parts: list[tuple[str, bytes]], status: int, code: str, part: str
) -> None:
    """Missing, unknown, too many, of another format, too large: each names its part."""
    answer = await web.client.post(SESSIONS, files=[(name, ("file", data)) for name, data in parts])
    assert_problem(answer, status, code)
    assert answer.json()["part"] == part
    assert await stored(web) == NOTHING


async def test_params_gain_defaults_and_a_seed(web: Web) -> None:
    """The session, its trail and a later look show what it runs with."""
    files = form() | {"garment": GARMENT}
    answer = await web.client.post(SESSIONS, files=files, data={"params": '{"crop": {}, "seed": 7}'})
    session = answer.json()
    assert (session["params"], session["seed"]) == ({"steps": 30, "crop": {"mode": "wide"}}, 7)
    history = await web.client.get(
        f"{session['links']['self']}/history", headers={"X-Client-Token": session["client_token"]}
    )
    data = history.json()["events"][0]["data"]
    assert (data["params"], data["seed"]) == (session["params"], 7)
    drawn = {(await web.client.post(SESSIONS, files=files)).json()["seed"] for _ in range(3)}
    assert len(drawn) == 3 and all(0 <= seed < 2**31 for seed in drawn)


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"steps": 0}, "/steps"),
        ({"steps": "many"}, "/steps"),
        ({"crop": {"mode": "none"}}, "/crop/mode"),
        ({"a/b": 1}, "/a~1b"),
        ({"seed": -1}, "/seed"),
        ({"seed": 2**31}, "/seed"),
        ({"seed": "x"}, "/seed"),
        ({"seed": True}, "/seed"),
        ([], ""),
    ],
)
async def test_params_are_refused_with_a_pointer(web: Web, params: Any, pointer: str) -> None:
    """A program finds the place, a person reads what the schema wants there."""
    files = form() | {"garment": GARMENT}
    answer = await web.client.post(SESSIONS, files=files, data={"params": json.dumps(params)})
    assert_problem(answer, 422, "bad_params")
    assert (answer.json()["part"], answer.json()["pointer"]) == ("params", pointer)
    assert pointer in answer.json()["detail"]
    assert await stored(web) == NOTHING


async def test_upload_is_unavailable_when_nothing_judges_it(start_web: StartWeb) -> None:
    """Before the first worker has published, and when all run something else."""
    web = await start_web(processor="acme")
    assert_problem(await web.client.post(SESSIONS, files=form()), 503, "unavailable")
    text = (await web.services.database.processors.all())[0].description
    await web.services.database.processors.publish("worker", setting="overlay", description=text, seconds=60)
    answer = await web.client.post(SESSIONS, files=form())
    assert_problem(answer, 503, "unavailable")
    assert "overlay" in answer.json()["detail"] and answer.headers["Retry-After"]
    assert await stored(web) == NOTHING
