"""The OpenAPI document: valid, held to the code, and true of a running server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import openapi_spec_validator
import pytest

from server.web.api.operations import OPERATIONS
from server.web.docs.openapi import DOCUMENTED, EVERYWHERE, WAITS, openapi
from server.web.docs.schemas import PARAMETERS
from testkit.schemas import references, validator, walk
from tryon.protocol import errors, paths

if TYPE_CHECKING:
    from testkit.fixtures import StartStack

SOMETIMES: Final = {"Accept", "Accept-Encoding", "Retry-After", "RateLimit", "RateLimit-Policy", "Idempotent-Replay"}


@pytest.fixture
def spec() -> Any:
    return openapi()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield http


def test_openapi_document_is_valid(spec: Any) -> None:
    """The document passes the validator of the OpenAPI specification."""
    openapi_spec_validator.validate(spec)


def test_openapi_references_resolve(spec: Any) -> None:
    """Every `$ref` leads to a part of the document."""
    assert len(set(references(spec))) > 20


def test_openapi_examples_fit_schemas(spec: Any) -> None:
    """Every example of an answer validates against the schema beside it."""
    seen = 0
    for node in walk(spec["paths"]):
        if "examples" in node and "schema" in node:
            for example in node["examples"].values():
                validator(spec, node["schema"]).validate(example["value"])
                seen += 1
    assert seen > 25


def test_openapi_documents_every_operation(spec: Any) -> None:
    """Each row is in the document, except the static files of the two pages."""
    documented = {(method, path) for path, methods in spec["paths"].items() for method in methods}
    assert documented == {(row.method.lower(), row.path) for row in DOCUMENTED}
    assert {row.path for row in OPERATIONS if not row.documented} == {paths.STATIC}


def test_openapi_declares_path_parameters(spec: Any) -> None:
    """An operation declares exactly the parameters that its path names."""
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            names = {reference["$ref"].rpartition("/")[2] for reference in operation.get("parameters", ())}
            declared = {PARAMETERS[name]["name"] for name in names if PARAMETERS[name]["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path)), path


def test_openapi_lists_every_error_code(spec: Any) -> None:
    """Codes of refusals and of failed sessions are those of `tryon.protocol.errors`."""
    assert {row["code"] for row in spec["x-error-codes"]} == set(errors.CODES)
    assert {row["code"] for row in spec["x-failure-codes"]} == set(errors.FAILURES)
    assert set(spec["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(errors.CODES)
    assert WAITS | set(EVERYWHERE) <= set(errors.CODES)


def test_openapi_statuses_follow_error_codes(spec: Any) -> None:
    """An operation's statuses are its answers', its errors', 400 and 500."""
    for row in DOCUMENTED:
        documented = {int(status) for status in spec["paths"][row.path][row.method.lower()]["responses"]}
        assert documented == set(row.answers) | {errors.CODES[code].status for code in row.errors} | {400, 500}


async def test_answers_fit_the_document(stack: StartStack, photos: Path, spec: Any) -> None:
    """One session from upload to end, a refusal, and the service's own pages."""
    running = await stack()

    def check(answer: httpx.Response, path: str) -> None:
        operation = spec["paths"][path][answer.request.method.lower()]
        response = operation["responses"][str(answer.status_code)]
        (media, content), *_ = response["content"].items()
        assert answer.headers["content-type"].partition(";")[0] == media or media == "image/*", path
        if media.endswith("json"):
            validator(spec, content["schema"]).validate(answer.json())
        for name, header in response["headers"].items():
            assert name in answer.headers or name in SOMETIMES, (path, header)

    async with client(running.url) as http:
        photo = (photos / "photo.jpg").read_bytes()
        created = await http.post(paths.SESSIONS, files={"image": photo})
        check(created, paths.SESSIONS)
        check(await http.post(paths.SESSIONS, files={"image": b"no photo"}), paths.SESSIONS)
        token = {"Authorization": f"Bearer {created.json()['client_token']}"}
        links = created.json()["links"]
        check(await http.get(links["self"], headers=token), paths.SESSION)
        check(await http.get(links["self"]), paths.SESSION)
        check(await http.get(f"{links['self']}/history", headers=token), paths.HISTORY)
        check(await http.get(links["input"]), paths.FILE)
        check(await http.get(f"{links['self']}/events", headers=token), paths.EVENTS)
        check(await http.get(paths.SESSIONS, headers=token), paths.SESSIONS)
        check(await http.get(paths.SESSIONS), paths.SESSIONS)
        check(await http.post(f"{links['self']}/cancel", headers=token), paths.CANCEL)
        check(await http.post(f"{links['self']}/retry", headers=token), paths.RETRY)
        check(await http.delete(links["self"], headers=token), paths.SESSION)
        check(await http.get(paths.RECEIPT_KEY), paths.RECEIPT_KEY)
        check(await http.get(paths.LIMITS), paths.LIMITS)
        for row in DOCUMENTED:
            if row.tag != "sessions":
                check(await http.get(row.path), row.path)


async def test_wrong_method_names_documented_methods(stack: StartStack, spec: Any) -> None:
    """A 405 carries `Allow` with all methods that the document has for the path."""
    running = await stack()
    async with client(running.url) as http:
        for path, methods in spec["paths"].items():
            refused = await http.put(re.sub(r"{\w+}", "x", path))
            assert refused.status_code == 405, path
            assert refused.json()["code"] == "method_not_allowed"
            allowed = {method.strip().lower() for method in refused.headers["allow"].split(",")} - {"head"}
            assert allowed == set(methods), path
