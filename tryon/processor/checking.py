"""Values checked against a JSON Schema (2020-12), with every step counted.

A general validator looks at nothing that a budget could be taken from: the members of
an ``enum``, the schemas of an ``anyOf``, the texts of errors that nothing reads. Here
each of them costs steps, and a check that has used up its steps ends. A schema comes
here only if :mod:`~tryon.processor.schemas` has judged it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, TypeAlias

from tryon.processor.schemas import MAX_TEXT, WAYS_A_STEP, Judged, canonical, is_type, target

MAX_NESTING: Final = 150
"""Maximum schemas within each other that apply, references and values included."""

CHARACTERS_A_STEP: Final = 64
"""Characters that are compared or copied for one step."""


class TooMuch(Exception):
    """The work of one check goes beyond its bounds."""


class Steps:
    """The work that a check may still do: about a microsecond each."""

    __slots__ = ("left",)

    def __init__(self, count: int) -> None:
        self.left = count

    def __repr__(self) -> str:
        return f"<Steps left={self.left}>"

    def spend(self, steps: int = 1) -> None:
        """Take steps. Raises TooMuch if there are not as many."""
        self.left -= steps
        if self.left < 0:
            raise TooMuch


@dataclass(slots=True)
class Wrong:
    """A value that does not fit: the keyword that refused it, and where."""

    keyword: str
    """Empty: the schema ``false``."""
    rule: Any
    schema: Any
    value: Any
    path: list[str | int] = field(default_factory=list)
    """The way to the value, from its end."""


Found: TypeAlias = "Wrong | bool | None"
"""What a keyword says: the value within that does not fit, or whether its own fails."""


class Check:
    """One check of one value. State: the steps that are left, and the nesting."""

    __slots__ = ("_judged", "_nesting", "steps")

    def __init__(self, judged: Judged, steps: Steps) -> None:
        self.steps = steps
        self._judged = judged
        self._nesting = 0

    def __repr__(self) -> str:
        return f"<Check {self.steps!r}>"

    def first_wrong(self, schema: Any, value: Any) -> Wrong | None:
        """Return the first thing that does not fit, in the order of the schema.

        Raises TooMuch.
        """
        if isinstance(schema, bool):
            self.steps.spend()
            return None if schema else Wrong("", None, schema, value)
        self.steps.spend(1 + len(schema))
        if self._nesting >= MAX_NESTING:
            raise TooMuch
        self._nesting += 1
        try:
            for keyword, rule in schema.items():
                check = _KEYWORDS.get(keyword)
                found = check(self, rule, value, schema) if check is not None else None
                if found is True:
                    return Wrong(keyword, rule, schema, value)
                if found:
                    return found
        finally:
            self._nesting -= 1
        return None

    def inside(self, schema: Any, value: Any, place: str | int) -> Wrong | None:
        """Return the first thing that does not fit in what stands at a place."""
        wrong = self.first_wrong(schema, value)
        if wrong is not None:
            wrong.path.append(place)
        return wrong

    def fits(self, schema: Any, value: Any) -> bool:
        """Return whether a value fits."""
        return self.first_wrong(schema, value) is None

    def referred(self, reference: str) -> Any:
        """Return the schema that a reference names."""
        return target(self._judged.schema, reference)

    def is_among(self, schema: Mapping[str, Any], keyword: str, value: Any) -> bool:
        """Return whether a value is one of ``enum`` or ``const``."""
        return self.text(value) in self._judged.values[id(schema), keyword]

    def text(self, value: Any) -> str:
        """Return the text that only equal values have; each text is paid for."""
        text = canonical(value)
        self.steps.spend(1 + len(text) // CHARACTERS_A_STEP)
        return text

    def matches(self, pattern: str, text: str) -> bool:
        """Return whether a text matches a pattern; its ways are paid for."""
        judged = self._judged.patterns[pattern]
        self.steps.spend(1 + judged.ways(len(text)) // WAYS_A_STEP)
        return judged.search(text)


# -- keywords: each returns True if the value itself does not fit ----------------------


def _size(kind: str, fails: Callable[[int, Any], bool]) -> Callable[[Check, Any, Any, Any], Found]:
    return lambda check, rule, value, schema: is_type(value, kind) and fails(len(value), rule)


def _number(fails: Callable[[Any, Any], bool]) -> Callable[[Check, Any, Any, Any], Found]:
    return lambda check, rule, value, schema: is_type(value, "number") and fails(value, rule)


def _type(check: Check, rule: Any, value: Any, schema: Any) -> Found:
    return not any(is_type(value, each) for each in ([rule] if isinstance(rule, str) else rule))


def _is_no_multiple(value: Any, rule: Any) -> bool:
    if not isinstance(rule, float):
        return bool(value % rule)
    quotient = value / rule
    if quotient in (float("inf"), float("-inf")):
        return (Fraction(value) / Fraction(rule)).denominator != 1
    return bool(int(quotient) != quotient)


def _pattern(check: Check, rule: str, value: Any, schema: Any) -> Found:
    if not isinstance(value, str) or len(value) > min(schema.get("maxLength", MAX_TEXT), MAX_TEXT):
        return False  # a text that is too long fails by maxLength; its pattern was not judged for it
    return not check.matches(rule, value)


def _unique_items(check: Check, rule: bool, value: Any, schema: Any) -> Found:
    return rule and isinstance(value, list) and len({check.text(each) for each in value}) < len(value)


def _required(check: Check, rule: list[str], value: Any, schema: Any) -> Found:
    check.steps.spend(len(rule))
    return isinstance(value, dict) and any(name not in value for name in rule)


def _dependent_required(check: Check, rule: dict[str, list[str]], value: Any, schema: Any) -> Found:
    check.steps.spend(len(rule) + sum(map(len, rule.values())))
    return isinstance(value, dict) and any(
        name in value and any(each not in value for each in needed) for name, needed in rule.items()
    )


def _properties(check: Check, rule: dict[str, Any], value: Any, schema: Any) -> Found:
    check.steps.spend(len(rule))
    if isinstance(value, dict):
        for name, inner in rule.items():
            if name in value and (wrong := check.inside(inner, value[name], name)):
                return wrong
    return None


def _additional_properties(check: Check, rule: Any, value: Any, schema: Any) -> Found:
    if not isinstance(value, dict):
        return None
    check.steps.spend(len(value))
    known = schema.get("properties", {})
    for name, inner in value.items():
        if name not in known:
            if rule is False:
                return True  # of the object: `properties` may allow the field
            if wrong := check.inside(rule, inner, name):
                return wrong
    return None


def _property_names(check: Check, rule: Any, value: Any, schema: Any) -> Found:
    names = value if isinstance(value, dict) else ()
    return next((wrong for name in names if (wrong := check.first_wrong(rule, name))), None)


def _dependent_schemas(check: Check, rule: dict[str, Any], value: Any, schema: Any) -> Found:
    check.steps.spend(len(rule))
    if isinstance(value, dict):
        for name, inner in rule.items():
            if name in value and (wrong := check.first_wrong(inner, value)):
                return wrong
    return None


def _items(check: Check, rule: Any, value: Any, schema: Any) -> Found:
    first = len(schema.get("prefixItems", ()))
    if not isinstance(value, list) or len(value) <= first:
        return None
    if rule is False:
        return True
    for at in range(first, len(value)):
        if wrong := check.inside(rule, value[at], at):
            return wrong
    return None


def _prefix_items(check: Check, rule: list[Any], value: Any, schema: Any) -> Found:
    if isinstance(value, list):
        for at, (inner, each) in enumerate(zip(rule, value, strict=False)):
            if wrong := check.inside(inner, each, at):
                return wrong
    return None


def _contains(check: Check, rule: Any, value: Any, schema: Any) -> Found:
    if not isinstance(value, list):
        return False
    count = sum(check.fits(rule, each) for each in value)
    return not schema.get("minContains", 1) <= count <= schema.get("maxContains", len(value))


def _all_of(check: Check, rule: list[Any], value: Any, schema: Any) -> Found:
    return next((wrong for inner in rule if (wrong := check.first_wrong(inner, value))), None)


def _any_of(check: Check, rule: list[Any], value: Any, schema: Any) -> Found:
    return not any(check.fits(inner, value) for inner in rule)


def _one_of(check: Check, rule: list[Any], value: Any, schema: Any) -> Found:
    return sum(check.fits(inner, value) for inner in rule) != 1


def _if(check: Check, rule: Any, value: Any, schema: Any) -> Found:
    then = schema.get("then" if check.fits(rule, value) else "else", True)
    return check.first_wrong(then, value)


_KEYWORDS: Final[Mapping[str, Callable[[Check, Any, Any, Any], Found]]] = {
    "$ref": lambda check, rule, value, schema: check.first_wrong(check.referred(rule), value),
    "additionalProperties": _additional_properties,
    "allOf": _all_of,
    "anyOf": _any_of,
    "const": lambda check, rule, value, schema: not check.is_among(schema, "const", value),
    "contains": _contains,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "enum": lambda check, rule, value, schema: not check.is_among(schema, "enum", value),
    "exclusiveMaximum": _number(lambda value, rule: value >= rule),
    "exclusiveMinimum": _number(lambda value, rule: value <= rule),
    "if": _if,
    "items": _items,
    "maxItems": _size("array", lambda size, rule: size > rule),
    "maxLength": _size("string", lambda size, rule: size > rule),
    "maxProperties": _size("object", lambda size, rule: size > rule),
    "maximum": _number(lambda value, rule: value > rule),
    "minItems": _size("array", lambda size, rule: size < rule),
    "minLength": _size("string", lambda size, rule: size < rule),
    "minProperties": _size("object", lambda size, rule: size < rule),
    "minimum": _number(lambda value, rule: value < rule),
    "multipleOf": _number(_is_no_multiple),
    "not": lambda check, rule, value, schema: check.fits(rule, value),
    "oneOf": _one_of,
    "pattern": _pattern,
    "prefixItems": _prefix_items,
    "properties": _properties,
    "propertyNames": _property_names,
    "required": _required,
    "type": _type,
    "uniqueItems": _unique_items,
}
"""``format`` and the words about a schema itself refuse nothing."""
