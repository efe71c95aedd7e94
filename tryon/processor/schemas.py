"""JSON Schemas (2020-12) of params, judged before a value meets them.

A schema may have been written by anybody who writes processors. What is malformed is
refused, and what cannot be bounded: references to other documents or without end,
costly patterns, keywords that collect what other keywords have seen, and schemas of
which one value alone would take more steps than a check has.

Judging is linear in the size of the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tryon.processor.patterns import CostlyPattern, Pattern

MAX_SCHEMA_BYTES: Final = 64 * 1024
"""Maximum size of a schema as JSON."""

MAX_SCHEMAS: Final = 2000
"""Maximum schemas within a schema: 30 ms."""

MAX_DEPTH: Final = 32
"""Maximum nesting of schemas, of references, and of values with their defaults."""

MAX_STEPS: Final = 10_000
"""Maximum steps of one check: about 10 ms."""

MAX_TEXT: Final = 4096
"""The longest text in params, which have no more bytes in all."""

WAYS_A_STEP: Final = 400
"""Ways of a pattern that are tried for one step."""

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema: TypeAlias = Mapping[str, Any]

REFUSED: Final = frozenset(
    {
        "$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveRef", "$vocabulary",
        "patternProperties", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
"""Keywords that a schema of params may not have: their work cannot be bounded."""

_REFERENCE: Final = re.compile(r"#|#/\$defs/([A-Za-z0-9_.-]+)", re.ASCII)
"""References that are followed: to the whole schema, and to one of its ``$defs``."""


class BadSchema(ValueError):
    """The schema is malformed, or its work cannot be bounded; the text says where."""


@dataclass(frozen=True, slots=True, repr=False)
class Judged:
    """A schema that was judged, and what a check of values needs of it."""

    schema: dict[str, Any]
    parts: tuple[tuple[str, dict[str, Any]], ...]
    """The schema and all within it, each with its place (RFC 6901)."""
    patterns: Mapping[str, Pattern]
    values: Mapping[tuple[int, str], frozenset[str]]
    """The values of ``enum`` and ``const``, as :func:`canonical` texts, by the identity
    of the schema.
    """


def target(root: Schema, reference: str) -> Any:
    """Return the schema that a judged reference names."""
    found = _REFERENCE.fullmatch(reference)
    return root["$defs"][found[1]] if found is not None and found[1] else root


def judge(schema: Schema) -> Judged:
    """Return the schema as plain JSON, with what a check needs. Raises BadSchema."""
    plain = _plain(schema)
    parts = tuple(_parts(plain))
    defs = plain.get("$defs", {})
    patterns: dict[str, Pattern] = {}
    values: dict[tuple[int, str], frozenset[str]] = {}
    for pointer, part in parts:
        _check_reference(pointer, part, defs)
        if "pattern" in part:
            judged = _pattern(pointer, part)
            patterns[part["pattern"]] = judged
        try:
            if "enum" in part:
                values[id(part), "enum"] = frozenset(map(canonical, part["enum"]))
            if "const" in part:
                values[id(part), "const"] = frozenset({canonical(part["const"])})
        except RecursionError:
            raise BadSchema(f"a value of {pointer or 'the schema'} is nested too deeply") from None
    costs = _Costs(plain, patterns)
    for pointer, part in parts:
        if costs.of(part, pointer) > MAX_STEPS:
            raise BadSchema(f"{pointer or 'the schema'} takes too many steps to check one value")
    return Judged(plain, parts, patterns, values)


def canonical(value: Any) -> str:
    """Return a text that only equal values have: 1 and 1.0 are, 1 and true are not."""

    def number(each: Any) -> Any:
        match each:
            case float() if each.is_integer():
                return int(each)
            case dict():
                return {key: number(inner) for key, inner in each.items()}
            case list():
                return [number(inner) for inner in each]
            case _:
                return each

    return json.dumps(number(value), sort_keys=True)


def _plain(schema: Schema) -> dict[str, Any]:
    """Return a copy of the schema as plain JSON, without ``$schema``."""
    try:
        text = json.dumps(dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadSchema(f"the schema is no JSON object: {error}") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise BadSchema(f"the schema has more than {MAX_SCHEMA_BYTES} bytes")
    try:
        plain: dict[str, Any] = json.loads(text)
    except RecursionError:
        raise BadSchema("the schema is nested too deeply") from None
    if (dialect := plain.pop("$schema", DIALECT)) != DIALECT:
        raise BadSchema(f"$schema is {dialect!r}; it must be {DIALECT}")
    if plain.get("type", "object") != "object":
        raise BadSchema("params are an object: the type of the schema must be 'object'")
    return plain


# -- the form of each keyword ----------------------------------------------------------


def is_type(value: Any, kind: str) -> bool:
    """Return whether a value is of a type of JSON Schema: 1.0 is an integer."""
    match kind:
        case "integer":
            return _is_number(value) and (isinstance(value, int) or value.is_integer())
        case "number":
            return _is_number(value)
        case _:
            return isinstance(value, _TYPES[kind])


_TYPES: Final = {"array": list, "boolean": bool, "null": type(None), "object": dict, "string": str}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return is_type(value, "integer") and value >= 0


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and len(set(value)) == len(value)


def _is_kind(value: Any) -> bool:
    known = {*_TYPES, "integer", "number"}
    names = [value] if isinstance(value, str) else value
    return _are_names(names) and bool(names) and known.issuperset(names)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _are_named_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _are_named_names(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_are_names, value.values()))


_NAMED: Final = ("properties", "$defs", "dependentSchemas")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")

_FORMS: Final[tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...]] = (
    (_NAMED, _are_named_schemas, "an object of schemas"),
    (_LISTS, _are_schemas, "a list of schemas"),
    (_SINGLE, _is_schema, "a schema"),
    (("type",), _is_kind, "a type of JSON, or a list of them"),
    (("enum", "examples"), lambda value: isinstance(value, list), "a list"),
    (("required",), _are_names, "a list of different names"),
    (("dependentRequired",), _are_named_names, "an object of lists of different names"),
    (("multipleOf",), lambda value: _is_number(value) and value > 0, "a number above 0"),
    (("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"), _is_number, "a number"),
    (
        ("maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains", "maxProperties",
         "minProperties"),
        _is_count,
        "a whole number from 0",
    ),
    (
        ("uniqueItems", "deprecated", "readOnly", "writeOnly"),
        lambda value: isinstance(value, bool),
        "true or false",
    ),
    (
        ("pattern", "format", "$ref", "$comment", "title", "description", "contentEncoding", "contentMediaType"),
        lambda value: isinstance(value, str),
        "a text",
    ),
)  # fmt: skip
_FORM_OF: Final = {name: (fits, wanted) for names, fits, wanted in _FORMS for name in names}
"""What each keyword must look like, and the words for that."""


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schema and all schemas within it, each with its place.

    Raises BadSchema for the first keyword that is malformed or not supported.
    """
    count = 0
    waiting: list[tuple[str, Any, int]] = [("", schema, 0)]
    while waiting:
        pointer, part, depth = waiting.pop()
        count += 1
        if count > MAX_SCHEMAS:
            raise BadSchema(f"the schema holds more than {MAX_SCHEMAS} schemas")
        if depth > MAX_DEPTH:
            raise BadSchema("the schema is nested too deeply")
        if not isinstance(part, dict):
            continue
        for keyword, rule in part.items():
            if keyword in REFUSED or keyword == "$schema":
                raise BadSchema(f"{pointer}/{keyword} is not supported for params")
            fits, wanted = _FORM_OF.get(keyword, (None, ""))
            if fits is not None and not fits(rule):
                raise BadSchema(f"{pointer}/{keyword} must be {wanted}")
        yield pointer, part
        inner = [(f"{key}/{escaped(name)}", each) for key in _NAMED for name, each in part.get(key, {}).items()]
        inner += [(f"{key}/{at}", each) for key in _LISTS for at, each in enumerate(part.get(key, ()))]
        inner += [(key, part[key]) for key in _SINGLE if key in part]
        waiting += [(f"{pointer}/{place}", each, depth + 1) for place, each in reversed(inner)]


def escaped(name: str) -> str:
    """Return a name as it stands in a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _check_reference(pointer: str, part: Schema, defs: Schema) -> None:
    if "$ref" in part:
        found = _REFERENCE.fullmatch(part["$ref"])
        if found is None or (found[1] is not None and found[1] not in defs):
            raise BadSchema(f"{pointer}/$ref must be '#', or '#/$defs/NAME' with a NAME that is there")


def _pattern(pointer: str, part: Schema) -> Pattern:
    try:
        return Pattern(part["pattern"], longest=longest_of(part))
    except CostlyPattern as error:
        raise BadSchema(f"{pointer}/pattern: {error}") from None


def longest_of(part: Schema) -> int:
    """Return the length of the longest text that the pattern of a schema meets."""
    return int(min(part.get("maxLength", MAX_TEXT), MAX_TEXT))


class _Costs:
    """The steps that one value takes at most, for each schema; values within it apart.

    State: the sums so far, each with the length of its longest chain of schemas.
    """

    def __init__(self, root: dict[str, Any], patterns: Mapping[str, Pattern]) -> None:
        self._root = root
        self._patterns = patterns
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def of(self, part: Schema, pointer: str) -> int:
        """Return the steps. Raises BadSchema if they have no end."""
        steps, chain = self._sum(part, pointer, 0)
        if chain > MAX_DEPTH:
            raise BadSchema(f"{pointer or 'the schema'} applies too many schemas within each other")
        return steps

    def _sum(self, part: Any, pointer: str, depth: int) -> tuple[int, int]:
        if not isinstance(part, dict):
            return 1, 0
        if (known := self._known.get(id(part))) is not None:
            return known
        if id(part) in self._open or depth > MAX_DEPTH:
            raise BadSchema(f"{pointer or 'the schema'} refers to itself without end, or too deeply")
        self._open.add(id(part))
        steps, chain = 1 + len(part) + self._own(part), 0
        for each in self._applied(part):
            more, longer = self._sum(each, pointer, depth + 1)
            steps, chain = steps + more, max(chain, longer + 1)
        self._open.discard(id(part))
        self._known[id(part)] = steps, chain
        return steps, chain

    def _own(self, part: Schema) -> int:
        steps = sum(len(part.get(key, ())) for key in ("required", "properties", "dependentSchemas"))
        steps += sum(1 + len(each) for each in part.get("dependentRequired", {}).values())
        if "pattern" in part:
            steps += 1 + self._patterns[part["pattern"]].ways(longest_of(part)) // WAYS_A_STEP
        return steps

    def _applied(self, part: Schema) -> Iterator[Any]:
        """Yield the schemas that the same value must meet as well."""
        for key in ("allOf", "anyOf", "oneOf"):
            yield from part.get(key, ())
        yield from part.get("dependentSchemas", {}).values()
        yield from (part[key] for key in ("not", "if", "then", "else") if key in part)
        if "$ref" in part:
            yield target(self._root, part["$ref"])
