"""The session and the processor have the same fields wherever they are described.

The structs that are sent, OpenAPI, the types of the browser client, and the tables of
`docs/protocol.md`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import pytest

from server.web.docs.openapi import openapi
from testkit.processes import ROOT
from tryon.protocol.processors import OutputRoleView, ProcessorView, RoleView
from tryon.protocol.views import FileView, Links, PreviewView, Receipt, SessionError, SessionView

TYPES: Final = re.sub(r"/\*\*.*?\*/", "", (ROOT / "static" / "tryon.d.ts").read_text(), flags=re.DOTALL)
PAGE: Final = (ROOT / "docs" / "protocol.md").read_text()

FILLED_IN: Final = {("RoleView", "max_bytes"), ("RoleView", "max_pixels")}
"""Fields that may be null in a worker's description, and never in an answer: the server
fills in its own limits.
"""

Shape = Any
"""A type of JSON: a name; a list of one shape; an object's fields; or ``null or`` and
another shape.
"""


def declared(text: str) -> Shape:
    """Return the shape of a type in TypeScript."""
    text = " ".join(text.split())
    if text.startswith("("):
        return declared(text.removeprefix("(").removesuffix(")"))
    parts = [part.strip() for part in split(text, "|") if part.strip()]
    if len(parts) > 1:
        return either([declared(part) for part in parts])
    if text.endswith("[]"):
        return [declared(text[:-2])]
    if text.startswith("{"):
        pairs = (part.split(":", 1) for part in split(text[1:-1], ";") if part.strip())
        return {name.strip(): declared(kind) for name, kind in pairs}
    if text.startswith("Record<"):
        return "object"
    if text.startswith('"'):
        return "string"
    if text == "string & {}":  # any other text beside the listed ones, which an editor still offers
        return "string"
    if found := re.search(rf"^export type {text} =\s(.*?);$", TYPES, re.MULTILINE | re.DOTALL):
        return declared(found[1])
    if found := re.search(rf"^export interface {text} (\{{.*?^\}})", TYPES, re.MULTILINE | re.DOTALL):
        return declared(found[1])
    assert text in ("string", "number", "boolean", "null"), text
    return text


def split(text: str, at: str) -> list[str]:
    """Split a text where no brackets are open."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{<(") - (character in "}>)")
        if character == at and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def either(shapes: list[Shape]) -> Shape:
    """Return the shape of a union: null beside one other."""
    others = [each for each in shapes if each != "null"]
    assert all(each == others[0] for each in others), others
    return ("null or", others[0]) if len(others) < len(shapes) else others[0]


def documented(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str = "") -> Shape:
    """Return the shape of a schema of the OpenAPI document."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return documented(schemas[name], schemas, name)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return either([documented(each, schemas) for each in schema[key]])
    kind = schema.get("type", "string" if "enum" in schema or "const" in schema else None)
    if isinstance(kind, list):
        return either([documented({**schema, "type": each}, schemas) for each in kind])
    match kind:
        case "array":
            return [documented(schema["items"], schemas)]
        case "object" if "properties" in schema:
            fields = {field: documented(each, schemas) for field, each in schema["properties"].items()}
            return {field: each[1] if (name, field) in FILLED_IN else each for field, each in fields.items()}
        case "integer":
            return "number"
        case _:
            assert kind in ("string", "number", "boolean", "null", "object"), schema
            return kind


@pytest.mark.parametrize(
    ("interface", "struct"), [("Session", SessionView), ("Processor", ProcessorView), ("Receipt", Receipt)]
)
def test_declared_types_are_those_of_openapi(interface: str, struct: type) -> None:
    """Field by field, inner objects too: what may be null, and what it is otherwise."""
    schemas = openapi()["components"]["schemas"]
    sent = documented({"$ref": f"#/components/schemas/{struct.__name__}"}, schemas)
    assert declared(interface) == sent
    assert list(sent) == [field.encode_name for field in msgspec.structs.fields(struct)]


def named(cell: str) -> list[str]:
    """Return the names in backticks of a cell."""
    return re.findall(r"`(\w+)`", cell)


def rows(first_column: str) -> dict[str, str]:
    """Return a table of the page: the first cell of each row, and the others."""
    found = re.search(rf"^\| {first_column} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found, first_column
    cells = (row.strip("|").split(" | ", 1) for row in found[1].splitlines())
    return {cell.strip(): text for cell, text in cells}


@pytest.mark.parametrize(
    ("column", "struct", "inner"),
    [
        (
            "Field of a session",
            SessionView,
            {"error": SessionError, "inputs": FileView, "preview": PreviewView, "links": Links},
        ),
        ("Field", ProcessorView, {"roles": RoleView, "outputs": OutputRoleView}),
    ],
)
def test_tables_of_the_page_name_every_field(column: str, struct: type, inner: dict[str, type]) -> None:
    """No field more and none less, in the order of the answer."""
    table = rows(column)
    first = [name for cell in table for name in named(cell)]
    assert sorted(first) == sorted(struct.__struct_fields__)  # type: ignore[attr-defined]
    for field, each in inner.items():
        [text] = [text for cell, text in table.items() if field in named(cell)]
        assert set(each.__struct_fields__) <= set(named(text)), field  # type: ignore[attr-defined]
