"""The bounded validator says what JSON Schema says, and no check outlives its steps."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tryon.processor.checking import Check, Steps, TooMuch
from tryon.processor.params import BadParams, ParamsSchema
from tryon.processor.schemas import MAX_STEPS, BadSchema, judge

NAMES = ("a", "b")
VALUES: Any = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 2, -1.5, 2**53 + 1, "", "a", "ab", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=5,
)
COUNTS = st.integers(0, 3)
NUMBERS = st.sampled_from([-1, 0, 0.5, 1, 2])
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
SOME_NAMES = st.lists(st.sampled_from(NAMES), unique=True)
SIMPLE: dict[str, Any] = {
    "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
    "enum": st.lists(VALUES, max_size=3),
    "const": VALUES,
    "multipleOf": st.sampled_from([0.5, 1, 2]),
    "required": SOME_NAMES,
    "dependentRequired": st.dictionaries(st.sampled_from(NAMES), SOME_NAMES, max_size=2),
    "pattern": st.sampled_from(["^a", "b$", "^[0-9]+$"]),
    "uniqueItems": st.booleans(),
    "format": st.just("email"),
    "$ref": st.just("#/$defs/d"),
} | {
    name: strategy
    for names, strategy in (
        (("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"), NUMBERS),
        (("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"), COUNTS),
        (("maxContains", "minContains"), COUNTS),
    )
    for name in names
}


def _with_schemas(inner: Any) -> Any:
    named = st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)
    several = st.lists(inner, min_size=1, max_size=2)
    compound = dict.fromkeys(("items", "additionalProperties", "contains", "not", "if", "then", "else"), inner)
    compound |= {"propertyNames": inner, "properties": named, "dependentSchemas": named}
    compound |= dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), several)
    return _some(SIMPLE | compound)


def _some(keywords: dict[str, Any]) -> Any:
    chosen = st.lists(st.sampled_from(sorted(keywords)), max_size=3, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: keywords[name] for name in names}))


SCHEMAS = st.recursive(st.booleans() | _some(SIMPLE), _with_schemas, max_leaves=6)
NO_REFERENCE = {name: each for name, each in SIMPLE.items() if name != "$ref"}


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, _some(NO_REFERENCE), VALUES)
def test_check_agrees_with_json_schema(schema: Any, definition: Any, value: Any) -> None:
    """On random schemas and values, with every keyword that is supported."""
    whole = {"properties": {"x": schema}, "$defs": {"d": definition}}
    judged = judge(whole)
    found = Check(judged, Steps(10**6)).first_wrong(judged.schema, {"x": value})
    assert (found is None) is jsonschema.Draft202012Validator(whole).is_valid({"x": value})


ODD: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 1.0, 1.5, "", "x", "string", [], {}, [1], ["a"], ["a", "a"], ["string"], [{}], [True]),
    *({"a": {}}, {"a": 1}, {"a": ["b"]}, {"a": ["b", "b"]}),
)
KEYWORDS = (
    *SIMPLE,
    *("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames", "properties"),
    *("dependentSchemas", "allOf", "anyOf", "oneOf", "prefixItems", "$defs", "title", "description", "examples"),
    *("deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType", "$comment", "x-unknown"),
)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_malformed_keyword_is_refused_as_the_metaschema_does(keyword: str) -> None:
    """Whatever stands there; references and patterns are held to more than that."""
    validator = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)
    for rule in ODD:
        schema = {"properties": {"x": {keyword: rule}}}
        if keyword == "$ref" and isinstance(rule, str):
            continue
        try:
            judge(schema)
            taken = True
        except BadSchema:
            taken = False
        assert taken is validator.is_valid(schema), rule


LONG = [f"name-{n}" for n in range(3000)]
HOSTILE: dict[str, tuple[dict[str, Any], Any]] = {
    "long enum": ({"items": {"enum": LONG}}, ["x"] * 2000),
    "enum of long lists": ({"items": {"enum": [[0] * 5000 + [n] for n in range(2)]}}, [[0] * 1000] * 2),
    "long anyOf": ({"items": {"anyOf": [False] * 1900}}, [1] * 2000),
    "long oneOf": ({"items": {"oneOf": [{}] * 1900}}, [1] * 2000),
    "long allOf": ({"items": {"allOf": [True] * 1900}}, [1] * 2000),
    "long required": ({"items": {"required": LONG}}, [{}] * 1000),
    "many properties": ({"items": {"properties": dict.fromkeys(LONG[:1900], True)}}, [{}] * 1000),
    "unknown keywords": ({"items": dict.fromkeys(LONG, 1)}, [1] * 2000),
    "large default": ({"items": {"properties": {"a": {"default": [0] * 20_000}}}}, [{}] * 1000),
    "long texts": ({"items": {"properties": {"a": {"default": "x" * 60_000}}}}, [{}] * 1000),
    "costly pattern": ({"items": {"pattern": "^.*.*x$", "maxLength": 1900}}, ["y" * 1000] * 4),
    "nested arrays": ({"$ref": "#/$defs/t"}, [[[[[[1] * 300] * 2]]]]),
}
DEFS = {"t": {"allOf": [{"items": {"$ref": "#/$defs/t"}}, {"items": {"$ref": "#/$defs/t"}}]}}


@pytest.mark.parametrize("name", HOSTILE)
def test_check_ends_within_its_bound_on_hostile_schema(name: str) -> None:
    """Lists, defaults and patterns cost steps: 0.1 s at most, not minutes."""
    part, value = HOSTILE[name]
    schema = ParamsSchema({"properties": {"x": part}, "$defs": DEFS})
    began = time.process_time()
    with contextlib.suppress(BadParams):
        schema.check({"x": value})
    assert time.process_time() - began < 1


def _refer(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


@pytest.mark.parametrize(
    ("part", "defs"),
    [
        ({"anyOf": [{}] * 6000}, {}),
        ({"anyOf": [_refer("long")] * 5}, {"long": {"required": LONG}}),
        ({"anyOf": [_refer("costly")] * 2}, {"costly": {"pattern": "^.*.*x$", "maxLength": 1900}}),
        (_refer("a0"), {f"a{n}": {"anyOf": [_refer(f"a{n + 1}")] * 2} for n in range(14)} | {"a14": {}}),
        (_refer("b0"), {f"b{n}": _refer(f"b{n + 1}") for n in range(900)} | {"b900": {}}),
        (_refer("loop"), {"loop": {"anyOf": [{"type": "null"}, _refer("loop")]}}),
        ({"required": [1, "a"] * 3000}, {}),
    ],
)
def test_schema_is_refused_when_one_value_takes_too_many_steps(part: dict[str, Any], defs: dict[str, Any]) -> None:
    """At once, before it is published: not at the first upload."""
    began = time.process_time()
    with pytest.raises(BadSchema, match=r"steps|more than 2000 schemas|itself|names"):
        ParamsSchema({"properties": {"x": part}, "$defs": defs})
    assert time.process_time() - began < 1


def test_judging_is_quick_on_large_schemas() -> None:
    """Web processes judge what workers publish on their event loop."""
    schema = {"properties": {f"p{n}": {"type": "integer", "minimum": 0, "default": n} for n in range(900)}}
    began = time.process_time()
    ParamsSchema(schema)
    assert time.process_time() - began < 1


def test_steps_are_bounded() -> None:
    """The last one is paid for before it is made."""
    steps = Steps(MAX_STEPS)
    steps.spend(MAX_STEPS)
    with pytest.raises(TooMuch):
        steps.spend()
