"""Checks of JSON documents against the schemas they contain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema


def validator(document: Any, schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Return a validator of one schema whose references point into the document."""
    whole = {"components": document["components"], **schema}
    return jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object inside a JSON value, the outer ones first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for member in value if isinstance(value, list) else ():
        yield from walk(member)


def references(document: Any) -> Iterator[str]:
    """Yield every reference of a document; KeyError for one that leads nowhere."""
    for node in walk(document):
        if "$ref" in node:
            at = document
            for name in node["$ref"].removeprefix("#/").split("/"):
                at = at[name]
            yield node["$ref"]
