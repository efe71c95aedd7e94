"""Params against a processor's JSON Schema: pointers, defaults, and bounded work."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tryon.processor.params import MAX_SCHEMA_BYTES, BadParams, BadSchema, ParamsSchema

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["garment_type"],
    "properties": {
        "garment_type": {"enum": ["top", "bottom"]},
        "steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 30},
        "guidance": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
        "mode": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 16, "default": "quality"},
        "colours": {"type": "array", "items": {"type": "string"}, "maxItems": 3, "uniqueItems": True},
        "crop": {
            "type": "object",
            "default": {},
            "required": ["a/b"],
            "properties": {"a/b": {"type": "integer", "default": 1}, "wide": {"$ref": "#/$defs/flag"}},
        },
    },
    "$defs": {"flag": {"type": "boolean", "default": False}},
}


def test_params_gain_the_defaults_of_the_schema() -> None:
    """Defaults are filled in at every depth; what was sent stays as it is."""
    schema, sent = ParamsSchema(SCHEMA), {"garment_type": "top", "steps": 5}
    assert schema.check(sent) == {"garment_type": "top", "steps": 5, "mode": "quality", "crop": {"a/b": 1}}
    assert sent == {"garment_type": "top", "steps": 5}


@pytest.mark.parametrize(
    ("values", "pointer", "message"),
    [
        ({}, "/garment_type", "is missing"),
        ({"garment_type": "hat"}, "/garment_type", 'must be one of "top", "bottom"'),
        ({"garment_type": "top", "steps": 51}, "/steps", "must be at most 50"),
        ({"garment_type": "top", "steps": True}, "/steps", "must be of the type integer"),
        ({"garment_type": "top", "guidance": 0.3}, "/guidance", "must be a multiple of 0.5"),
        ({"garment_type": "top", "mode": "FAST"}, "/mode", 'does not match "^[a-z]+$"'),
        ({"garment_type": "top", "mode": "a" * 17}, "/mode", "must have at most 16 characters"),
        ({"garment_type": "top", "colours": ["a", 1]}, "/colours/1", "must be of the type string"),
        ({"garment_type": "top", "colours": ["a", "a"]}, "/colours", "has equal items"),
        ({"garment_type": "top", "crop": {"a/b": "x"}}, "/crop/a~1b", "must be of the type integer"),
        ({"garment_type": "top", "st~eps": 1}, "/st~0eps", "is unknown to this processor"),
    ],
)
def test_params_are_refused_with_a_pointer(values: dict[str, Any], pointer: str, message: str) -> None:
    """The refusal names the place (RFC 6901), and what the schema wants there."""
    with pytest.raises(BadParams) as refused:
        ParamsSchema(SCHEMA).check(values)
    assert (refused.value.pointer, refused.value.message) == (pointer, message)


def test_params_take_any_object_when_the_schema_does() -> None:
    """The mock's schema lets everything through, unchanged."""
    values = {"seed": 1, "deep": [{"x": [None, True, 1.5]}]}
    schema = ParamsSchema({"type": "object"})
    assert schema.check(values) == values
    assert schema.allows("anything") and not ParamsSchema(SCHEMA).allows("anything")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"type": 7},
        {"properties": {"x": {"$ref": "https://example.com/schema"}}},
        {"properties": {"x": {"$ref": "#/properties/y"}}},
        {"properties": {"x": {"$ref": "#/$defs/none"}}},
        {"$ref": "#"},
        {"properties": {"x": {"default": {}, "$ref": "#"}}},
        {"$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/a", "default": {}}}}}, "$ref": "#/$defs/a"},
        {"patternProperties": {"^(a+)+$": {}}},
        {"unevaluatedProperties": False},
        {"$dynamicRef": "#x"},
        {"properties": {"x": {"$id": "https://example.com/x"}}},
        {"properties": {"x": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"properties": {"x": {"pattern": "^(a+)+$"}}},
        {"allOf": [{"not": {"pattern": "^(a+)+$"}}]},
        {"properties": {"x": {"type": "integer", "default": "one"}}},
        # 30 levels of anyOf with two branches each: 2**30 ways
        {"$defs": {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(30)} | {"a30": False}},
        {"description": "x" * MAX_SCHEMA_BYTES},
        {"properties": {"x": {"const": float("nan")}}},
        {"properties": {"x": object()}},
    ],
)
def test_schema_is_refused_when_it_cannot_be_bounded(schema: dict[str, Any]) -> None:
    """Foreign documents, endless references and costly patterns end at the start."""
    with pytest.raises(BadSchema):
        ParamsSchema(schema)


def test_schema_is_refused_when_it_is_nested_too_deeply() -> None:
    """A schema of a thousand levels is a refusal, not a RecursionError."""
    schema: dict[str, Any] = {}
    for _ in range(1000):
        schema = {"properties": {"x": schema}}
    with pytest.raises(BadSchema):
        ParamsSchema(schema)


def test_schema_is_refused_when_its_values_are_nested_too_deeply() -> None:
    """JSON can be written deeper than a value can be compared."""
    value: list[Any] = []
    for _ in range(900):
        value = [value]
    with pytest.raises(BadSchema):
        ParamsSchema({"properties": {"x": {"const": value}}})


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"properties": {"x": {"items": {"allOf": [{"type": "integer"}] * 50}}}}, {"x": [1] * 2000}),
        (
            {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}, "properties": {"x": {"$ref": "#/$defs/t"}}},
            {"x": [1] * 9000},
        ),
    ],
)
def test_params_check_is_bounded_on_hostile_schemas(schema: dict[str, Any], values: dict[str, Any]) -> None:
    """A check that would take for ever gives up soon, with a refusal."""
    judged = ParamsSchema(schema)
    began = time.process_time()
    with pytest.raises(BadParams, match="too large"):
        judged.check(values)
    assert time.process_time() - began < 1


def test_params_check_is_bounded_on_many_unequal_items() -> None:
    """Thousands of items take one pass: 1 and 1.0 are equal, 1 and true are not."""
    schema = ParamsSchema({"properties": {"x": {"uniqueItems": True}}})
    began = time.process_time()
    schema.check({"x": [*range(2000), True, "1", [1], {"a": 1}]})
    assert time.process_time() - began < 1
    for equal in ([1, 1.0], [{"a": [2]}, {"a": [2.0]}], ["x", "x"]):
        with pytest.raises(BadParams, match="equal items"):
            schema.check({"x": equal})
