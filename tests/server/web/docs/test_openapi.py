"""The documents at /api/openapi.json and /api/asyncapi.json, and the page that shows
them.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import jsonschema
import openapi_spec_validator
import pytest
from starlette.routing import Route, WebSocketRoute

from server.config.settings import Config
from server.web.app import create_app
from server.web.docs import openapi
from tryon.protocol import errors
from tryon.protocol.close_codes import CLOSE_CODES, CloseCode

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.conftest import StartStack

WEB: Final = Path(openapi.__file__).parents[1]
ASYNCAPI_SCHEMA: Final = Path(__file__).resolve().parents[3] / "schemas" / "asyncapi-3.0.0.json"
SOMETIMES: Final = {"Retry-After", "RateLimit", "RateLimit-Policy", "Idempotent-Replay"}
NOT_IN_THE_DOCUMENT: Final = {("get", "/static/{path}")}  # parts of the two pages


@pytest.fixture
def spec() -> Any:
    return openapi.openapi()


@pytest.fixture
def frames() -> Any:
    return openapi.asyncapi()


def registry(document: Any, schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """A validator of one schema, whose references point into the document."""
    whole = {"components": document["components"], **schema}
    return jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for member in value if isinstance(value, list) else ():
        yield from walk(member)


# -- valid by their own standards ------------------------------------------------------


def test_the_openapi_document_is_valid(spec: Any) -> None:
    openapi_spec_validator.validate(spec)


def test_the_asyncapi_document_is_valid(frames: Any) -> None:
    schema = json.loads(ASYNCAPI_SCHEMA.read_text())
    jsonschema.Draft7Validator(schema).validate(frames)


@pytest.mark.parametrize("make", [openapi.openapi, openapi.asyncapi])
def test_every_reference_leads_somewhere(make: Callable[[], Any]) -> None:
    document = make()
    for node in walk(document):
        if "$ref" in node:
            at = document
            for name in node["$ref"].removeprefix("#/").split("/"):
                at = at[name]


def test_every_example_fits_its_schema(spec: Any, frames: Any) -> None:
    seen = 0
    for node in walk(spec["paths"]):
        if "examples" in node and "schema" in node:
            for example in node["examples"].values():
                registry(spec, node["schema"]).validate(example["value"])
                seen += 1
    for message in frames["components"]["messages"].values():
        for example in message["examples"]:
            registry(frames, message["payload"]).validate(example["payload"])
            seen += 1
    assert seen > 30


# -- held to the code ------------------------------------------------------------------


def test_every_route_is_documented_and_every_documented_operation_is_a_route(spec: Any, frames: Any) -> None:
    routes, sockets = set(), set()
    for route in create_app(Config()).routes:
        if isinstance(route, WebSocketRoute):
            sockets.add(re.sub(r":\w+}", "}", route.path))
        else:
            assert isinstance(route, Route)
            path = re.sub(r":\w+}", "}", route.path)
            routes |= {(method.lower(), path) for method in (route.methods or set()) - {"HEAD"}}
    documented = {(method, path) for path, methods in spec["paths"].items() for method in methods}
    assert documented == (routes - NOT_IN_THE_DOCUMENT) | {("get", path) for path in sockets}
    assert {channel["address"] for channel in frames["channels"].values()} == sockets


def test_every_path_parameter_is_declared(spec: Any) -> None:
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            names = {reference["$ref"].rpartition("/")[2] for reference in operation.get("parameters", ())}
            declared = {openapi.PARAMETERS[name]["name"] for name in names if openapi.PARAMETERS[name]["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path)), path


def test_operation_ids_are_unique() -> None:
    names = [row.name for row in openapi.OPERATIONS]
    assert len(names) == len(set(names))


def test_every_error_code_is_documented(spec: Any) -> None:
    assert {row["code"] for row in spec["x-error-codes"]} == set(errors.CODES)
    assert {row["code"] for row in spec["x-failure-codes"]} == set(errors.FAILURES)
    assert set(spec["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(errors.CODES)


def test_the_statuses_of_an_operation_are_those_of_its_codes(spec: Any) -> None:
    for row in openapi.OPERATIONS:
        documented = {int(status) for status in spec["paths"][row.path][row.method]["responses"]}
        assert documented == set(row.answers) | {errors.CODES[code].status for code in row.errors} | {500}


def test_every_close_code_of_the_code_is_documented(frames: Any) -> None:
    documented = {row["code"] for row in frames["x-close-codes"]}
    said = {
        int(CloseCode[name])
        for path in (*WEB.rglob("*.py"), *(WEB.parent / "domain").glob("*.py"))
        for name in re.findall(r"ByeFrame\(\s*(?:code=)?CloseCode\.(\w+)", path.read_text())
    }
    assert {1000, 4000, 4510} <= said
    assert said | {error.close_code for error in errors.ERRORS} <= documented


def test_every_reason_of_a_bye_is_documented(frames: Any) -> None:
    documented = {row["code"]: row["reasons"] for row in frames["x-close-codes"]}
    for path in WEB.rglob("*.py"):
        for name, reason in re.findall(r'ByeFrame\(\s*CloseCode\.(\w+), "(\w+)"', path.read_text()):
            if CloseCode[name] is not CloseCode.ABNORMAL:  # never sent
                assert reason in documented[CloseCode[name]], (path.name, reason)


def test_close_codes_tell_in_their_number_whether_to_come_back(frames: Any) -> None:
    for row in frames["x-close-codes"]:
        if row["code"] >= 4000:
            assert row["reconnect"].startswith("yes" if row["code"] < 4500 else "no"), row


def test_no_struct_has_a_field_that_the_schema_says_wrongly() -> None:
    """A rule of FIELDS that no schema has any more is a leftover."""
    documents = (openapi.openapi(), openapi.asyncapi())
    known = {
        (name, field)
        for document in documents
        for name, schema in document["components"]["schemas"].items()
        for field in schema.get("properties", ())
    }
    fields = {field for _, field in known}
    for rule in openapi.FIELDS:
        name, _, field = rule.rpartition(".")
        assert (name, field) in known if name else field in fields, rule


# -- served ----------------------------------------------------------------------------


@asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield http


async def test_answers_fit_the_document(stack: StartStack, photos: Path, spec: Any) -> None:
    """One session from its upload to its end, a refusal, and the service's own pages,
    each against its schema.
    """
    running = await stack()

    def check(answer: httpx.Response, path: str) -> None:
        operation = spec["paths"][path][answer.request.method.lower()]
        response = operation["responses"][str(answer.status_code)]
        (media, content), *_ = response["content"].items()
        assert answer.headers["content-type"].partition(";")[0] == media or media == "image/*", path
        if media.endswith("json"):
            registry(spec, content["schema"]).validate(answer.json())
        for name, header in response["headers"].items():
            assert name in answer.headers or name in SOMETIMES, (path, header)

    async with client(running.url) as http:
        photo = (photos / "photo.jpg").read_bytes()
        created = await http.post("/api/tryon/sessions", files={"image": photo})
        check(created, "/api/tryon/sessions")
        check(await http.post("/api/tryon/sessions", files={"image": b"no photo"}), "/api/tryon/sessions")
        token = {"Authorization": f"Bearer {created.json()['client_token']}"}
        links = created.json()["links"]
        session = "/api/tryon/sessions/{session_id}"
        check(await http.get(links["self"], headers=token), session)
        check(await http.get(links["self"]), session)
        check(await http.get(f"{links['self']}/history", headers=token), f"{session}/history")
        check(await http.get(links["input"]), "/api/tryon/files/{key}")
        check(await http.get(f"{links['self']}/events", headers=token), f"{session}/events")
        check(await http.get("/api/tryon/sessions", headers=token), "/api/tryon/sessions")
        check(await http.get("/api/tryon/sessions"), "/api/tryon/sessions")
        check(await http.post(f"{links['self']}/cancel", headers=token), f"{session}/cancel")
        check(await http.post(f"{links['self']}/retry", headers=token), f"{session}/retry")
        check(await http.delete(links["self"], headers=token), session)
        check(await http.get("/api/tryon/receipt-key"), "/api/tryon/receipt-key")
        for row in openapi.OPERATIONS:
            if row.tag != "sessions":
                check(await http.get(row.path), row.path)


async def test_a_wrong_method_is_told_the_documented_ones(stack: StartStack, spec: Any) -> None:
    running = await stack()
    async with client(running.url) as http:
        for path, methods in spec["paths"].items():
            if path.endswith("/ws"):
                continue
            refused = await http.put(re.sub(r"{\w+}", "x", path))
            assert refused.status_code == 405, path
            assert refused.json()["code"] == "method_not_allowed"
            allowed = {method.strip().lower() for method in refused.headers["allow"].split(",")} - {"head"}
            assert allowed == set(methods), path


@pytest.mark.xdist_group("chromium")
async def test_the_page_shows_everything_without_the_network(stack: StartStack, chromium: Browser) -> None:
    running = await stack()
    context = await chromium.new_context(viewport={"width": 1200, "height": 1000})
    page = await context.new_page()
    trouble: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        await page.goto(f"{running.url}/api/docs")
        await page.wait_for_selector("html[data-ready]")
        assert await page.locator("#http .opblock").count() == len(openapi.OPERATIONS)
        await page.click("#operations-sessions-submit .opblock-summary-control")
        await page.wait_for_selector("#operations-sessions-submit .responses-table")
        for frame in openapi.asyncapi()["components"]["messages"]:
            assert await page.locator(f"#frame-{frame}").count() == 1, frame
        codes = await page.inner_text("#close-codes")
        assert all(str(row.code) in codes for row in CLOSE_CODES)
        named = await page.inner_text("#error-codes")
        assert all(code in named for code in (*errors.CODES, *errors.FAILURES))
    finally:
        await context.close()
    assert trouble == []
    assert {url for url in asked if not url.startswith((f"{running.url}/", "data:"))} == set()


async def test_the_page_may_run_only_scripts_of_this_server(stack: StartStack) -> None:
    async with client((await stack()).url) as http:
        page = await http.get("/api/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["script-src"] == "'self'"
    assert policy["default-src"] == "'none'"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=", page.text), "an inline script"
