"""The AsyncAPI document: valid, and held to the frames and close codes of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from server.web import docs
from server.web.docs.asyncapi import asyncapi
from testkit.schemas import references, validator
from tryon.protocol import errors, paths
from tryon.protocol.close_codes import CloseCode

WEB: Final = Path(docs.__path__[0]).parent
ASYNCAPI_SCHEMA: Final = Path(__file__).resolve().parents[3] / "schemas" / "asyncapi-3.0.0.json"


@pytest.fixture
def frames() -> Any:
    return asyncapi()


def test_asyncapi_document_is_valid(frames: Any) -> None:
    """The document validates against the published schema of AsyncAPI 3."""
    schema = json.loads(ASYNCAPI_SCHEMA.read_text())
    jsonschema.Draft7Validator(schema).validate(frames)


def test_asyncapi_references_resolve(frames: Any) -> None:
    """Every `$ref` leads to a part of the document."""
    assert len(set(references(frames))) > 20


def test_asyncapi_examples_fit_payloads(frames: Any) -> None:
    """Every message has an example that validates against its payload."""
    for message in frames["components"]["messages"].values():
        assert message["examples"]
        for example in message["examples"]:
            validator(frames, message["payload"]).validate(example["payload"])


def test_asyncapi_channels_are_the_sockets(frames: Any) -> None:
    """The document describes the two paths that speak WebSocket."""
    assert {channel["address"] for channel in frames["channels"].values()} == {paths.SOCKET, paths.OWNER_SOCKET}


def test_asyncapi_lists_every_close_code(frames: Any) -> None:
    """The close codes of the code's `bye` frames and errors are documented."""
    documented = {row["code"] for row in frames["x-close-codes"]}
    said = {
        int(CloseCode[name])
        for path in (*WEB.rglob("*.py"), *(WEB.parent / "domain").glob("*.py"))
        for name in re.findall(r"\bbye\(CloseCode\.(\w+)", path.read_text())
    }
    assert {1000, 4000, 4510} <= said
    assert said | {error.close_code for error in errors.ERRORS} <= documented


def test_asyncapi_lists_every_bye_reason(frames: Any) -> None:
    """The reasons that the code gives with a close code stand beside that code."""
    documented = {row["code"]: row["reasons"] for row in frames["x-close-codes"]}
    for path in WEB.rglob("*.py"):
        for name, reason in re.findall(r'\bbye\(CloseCode\.(\w+), "(\w+)"', path.read_text()):
            if CloseCode[name] is not CloseCode.ABNORMAL:  # never sent
                assert reason in documented[CloseCode[name]], (path.name, reason)


def test_close_code_ranges_decide_reconnection(frames: Any) -> None:
    """4000 to 4499 means reconnect, 4500 to 4999 means stop."""
    for row in frames["x-close-codes"]:
        if row["code"] >= 4000:
            assert row["reconnect"].startswith("yes" if row["code"] < 4500 else "no"), row
