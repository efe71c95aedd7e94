"""The OpenAPI 3.1 document of the HTTP API, made from the rows of ``api.operations``.

An operation's error answers follow from the error codes that its row names.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from server import __version__
from server.web.api.operation import Answer, Operation
from server.web.api.operations import OPERATIONS
from server.web.common.problems import ACCEPTED, Problem
from server.web.docs.examples import ANSWERS, problem
from server.web.docs.schemas import BODIES, HEADERS, JSON, MEDIA, PARAMETERS, PROBLEM, SECURITY, Schema, ref, schemas
from tryon.protocol.errors import CODES, FAILURES

WAITS: Final = frozenset({"rate_limited", "queue_full", "unavailable", "storage_full", "idempotency_in_flight"})
"""Error codes whose answers may carry Retry-After."""

EVERYWHERE: Final = ("bad_request", "not_found", "method_not_allowed", "internal_error")
"""Error codes of any request: an unknown path, a wrong method, a server fault."""

DOCUMENTED: Final = tuple(row for row in OPERATIONS if row.documented)

TAGS: Final = {
    "sessions": "Upload a photo and follow its session.",
    "service": "Health and metrics for operators.",
    "pages": "Pages for users, and these documents.",
}

INFO: Final[Schema] = {"version": __version__, "license": {"name": "MIT", "url": "https://opensource.org/license/mit"}}
"""The fields of ``info`` that both documents share."""

ABOUT: Final = """\
Upload a photo, get a session at once, and follow it to its end: pushed over a
WebSocket or as Server-Sent Events, or polled. All transports show the same events.

**Access.** A client holds one anonymous token and shows it with every request. A client that cannot set headers uses the
ticket in the session's links. A wrong, missing or foreign credential and an unknown id look the same: 404.

**Errors** are `application/problem+json` (RFC 9457) with `code`, `retryable` and `request_id`; unknown paths and methods,
too. Every response has `X-Request-ID`. Before a request is looked at it may be refused with `bad_request`: 400 for a control
character in the path or not exactly one `Host`, 408 and 431 for its head, 414 for a long target, 421 for a host that is not
served.
"""


def _refusal(codes: Sequence[str]) -> Schema:
    """Return the error answer of one status: its codes, each with an example."""
    error = CODES[codes[0]]
    narrowed = {"type": "object", "properties": {"status": {"const": error.status}, "code": {"enum": sorted(codes)}}}
    return {
        "description": "; ".join(f"`{code}`: {error.codes[code].title.lower()}" for code in codes) + ".",
        "content": {
            PROBLEM: {
                "schema": {"allOf": [ref("schemas", "Problem"), narrowed]},
                "examples": {code: {"value": problem(code)} for code in codes},
            }
        },
    }


def _content(row: Operation, status: int, answer: Answer) -> Schema | None:
    """Return the body of an answer by its content type; None if it has no body."""
    if answer.body is not None:
        schema = ref("schemas", answer.body.__name__)
    elif answer.media is not None:
        schema = MEDIA[answer.media]
    else:
        return None
    content: Schema = {"schema": schema}
    if examples := ANSWERS.get((row.name, status)):
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {answer.media or JSON: content}


def _response(row: Operation, status: int, answer: Answer) -> Schema:
    response: Schema = {"description": answer.text, "headers": _headers(answer.headers)}
    if content := _content(row, status, answer):
        response["content"] = content
    if "Location" in answer.headers:  # a new session: the operations on it
        response["links"] = {
            row.name: {"operationId": row.name, "parameters": {"session_id": "$response.body#/session_id"}}
            for row in DOCUMENTED
            if "session_id" in row.parameters
        }
    return response


def _headers(names: Sequence[str]) -> Schema:
    return {name: ref("headers", name) for name in (*names, "X-Request-ID")}


def _responses(row: Operation) -> Schema:
    """Return the answers of an operation by status: the good ones, then the errors."""
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for code in dict.fromkeys((*row.errors, "bad_request", "internal_error")):
        by_status[CODES[code].status].append(code)
    responses = {str(status): _response(row, status, answer) for status, answer in row.answers.items()}
    for status, codes in sorted(by_status.items()):
        waits = () if WAITS.isdisjoint(codes) else ("Retry-After",)
        accepted = [name for code in codes for name in ACCEPTED.get(code, ())]
        responses[str(status)] = _refusal(codes) | {"headers": _headers((*row.error_headers, *waits, *accepted))}
    return responses


def _operation(row: Operation) -> Schema:
    operation: Schema = {
        "operationId": row.name,
        "tags": [row.tag],
        "summary": row.summary,
        "description": row.text,
        "parameters": [ref("parameters", name) for name in row.parameters],
        "security": [{name: []} if name else {} for name in row.security],
        "responses": _responses(row),
    }
    if row.form is not None:
        operation["requestBody"] = ref("requestBodies", row.form)
    return {name: value for name, value in operation.items() if value or name == "security"}


def _error_table() -> list[Schema]:
    """Return every error code, and the operations that may answer with it."""
    return [
        {
            "code": code,
            "status": error.status,
            "close_code": error.close_code,
            "title": error.codes[code].title,
            "detail": error.codes[code].detail,
            "retryable": error.codes[code].retryable,
            "operations": ["any"] if code in EVERYWHERE else [row.name for row in DOCUMENTED if code in row.errors],
        }
        for code, error in CODES.items()
    ]


def _failure_table() -> list[Schema]:
    return [
        {
            "code": code,
            "title": failure.title,
            "cause": failure.cause,
            "fix": failure.fix,
            "message": failure.detail,
            "retryable": failure.retryable,
        }
        for code, failure in FAILURES.items()
    ]


def _structs(rows: Sequence[Operation]) -> list[type[msgspec.Struct]]:
    """Return the structs that answers carry, in the order of the rows, and Problem."""
    bodies = [answer.body for row in rows for answer in row.answers.values() if answer.body is not None]
    return [*dict.fromkeys(bodies), Problem]


@functools.cache
def openapi() -> Schema:
    """Return the OpenAPI 3.1 document of the API."""
    return document(DOCUMENTED, title="TryOn Push", about=ABOUT, tags=TAGS) | {
        "x-error-codes": _error_table(),
        "x-failure-codes": _failure_table(),
    }


def document(rows: Sequence[Operation], *, title: str, about: str, tags: Mapping[str, str]) -> Schema:
    """Return an OpenAPI 3.1 document of these rows."""
    paths: defaultdict[str, Schema] = defaultdict(dict)
    for row in rows:
        paths[row.path][row.method.lower()] = _operation(row)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": about} | INFO,
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "paths": dict(paths),
        "components": {
            "schemas": schemas(_structs(rows)),
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "requestBodies": BODIES,
            "securitySchemes": SECURITY,
        },
    }
