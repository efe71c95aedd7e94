"""Params of a client, checked against a processor's JSON Schema (2020-12).

Both sides may be hostile: the client's values always are, and a schema may have been
written by anybody who writes processors. So the work is bounded. A schema is judged
once, in :class:`ParamsSchema`: what cannot be bounded is refused there (references to
other documents, costly patterns, keywords that collect what other keywords have seen).
Each check then counts its steps, and gives up beyond :data:`MAX_STEPS`.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from tryon.processor.patterns import CostlyPattern, check_pattern
from tryon.protocol.views import Params

MAX_SCHEMA_BYTES: Final = 64 * 1024
"""Maximum size of a schema as JSON."""

MAX_DEPTH: Final = 32
"""Maximum nesting of schemas, and of values with their defaults."""

MAX_STEPS: Final = 10_000
"""Maximum keywords that are applied in one check: about 50 ms."""

MAX_TEXT: Final = 4096
"""The longest text in params, which have no more bytes in all."""

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema: TypeAlias = Mapping[str, Any]

REFUSED: Final = frozenset(
    {
        "$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveRef", "$vocabulary",
        "patternProperties", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
"""Keywords that a schema of params may not have: their work cannot be bounded."""

_SCHEMAS_BY_NAME: Final = ("properties", "$defs", "dependentSchemas")
_LISTS_OF_SCHEMAS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS: Final = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")

_REFERENCE: Final = re.compile(r"#|#/\$defs/([A-Za-z0-9_.-]+)", re.ASCII)
"""References that are followed: to the whole schema, and to one of its ``$defs``."""


class BadSchema(ValueError):
    """The schema is malformed, or its work cannot be bounded; the text says where."""


class BadParams(ValueError):
    """The params do not fit; ``pointer`` (RFC 6901) is the place within them."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(f"{pointer or 'params'}: {message}")
        self.pointer = pointer
        self.message = message


class _TooMuch(Exception):
    """The work of one check goes beyond its bounds."""


_steps_left: ContextVar[list[int]] = ContextVar("steps_left")


def _spend(steps: int = 1) -> None:
    left = _steps_left.get()
    left[0] -= steps
    if left[0] < 0:
        raise _TooMuch


class ParamsSchema:
    """A schema that was judged, and checks params. Safe to share.

    Raises BadSchema.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = _plain(schema)
        _check_metaschema(self._schema)
        for pointer, part in _parts(self._schema):
            _judge(pointer, part, self._schema.get("$defs", {}))
        self._validator = _validator_class()(self._schema, registry=_no_documents())
        self._try_out()

    def __repr__(self) -> str:
        return f"<ParamsSchema {sorted(self._schema.get('properties', {}))}>"

    def allows(self, name: str) -> bool:
        """Return whether params may have a field of this name."""
        return name in self._schema.get("properties", {}) or self._schema.get("additionalProperties", True) is not False

    def check(self, values: Params) -> Params:
        """Return a copy of the values with the schema's defaults filled in.

        Raises BadParams for the first thing that does not fit.
        """
        _steps_left.set([MAX_STEPS])
        try:
            filled: dict[str, Any] = copy.deepcopy(dict(values))
            self._fill(self._schema, filled, 0)
            error = next(self._validator.iter_errors(filled), None)
        except (_TooMuch, RecursionError, ArithmeticError):
            raise BadParams("", "is too large to be checked") from None
        if error is not None:
            raise _bad_params(error)
        return filled

    def _fill(self, schema: Any, value: Any, depth: int) -> None:
        """Set the defaults of all objects within ``value``, in place."""
        _spend()
        if depth > MAX_DEPTH:
            raise _TooMuch
        if not isinstance(schema, dict):
            return
        if (name := _REFERENCE.fullmatch(schema.get("$ref", ""))) is not None:
            self._fill(self._schema["$defs"][name[1]] if name[1] else self._schema, value, depth + 1)
        if isinstance(value, dict):
            for key, part in schema.get("properties", {}).items():
                _spend()
                if key not in value and isinstance(part, dict) and "default" in part:
                    value[key] = copy.deepcopy(part["default"])
                if isinstance(value.get(key), dict | list):
                    self._fill(part, value[key], depth + 1)
        elif isinstance(value, list) and isinstance(schema.get("items"), dict):
            for each in value:
                self._fill(schema["items"], each, depth + 1)

    def _try_out(self) -> None:
        """Refuse a schema that no check could end, or whose defaults do not fit it."""
        try:
            self.check({})
        except BadParams as error:
            if error.message == "is too large to be checked":
                raise BadSchema("the schema refers to itself without end, or has too many defaults") from None
        except Exception as error:
            raise BadSchema(f"the schema cannot be used: {error}") from error
        for pointer, part in _parts(self._schema):
            if "default" in part:
                _steps_left.set([MAX_STEPS])
                try:
                    default = copy.deepcopy(part["default"])
                    self._fill(part, default, 0)
                    wrong = next(self._validator.evolve(schema=part).iter_errors(default), None)
                except (_TooMuch, RecursionError, ArithmeticError):
                    raise BadSchema(f"{pointer}/default is too large to be checked") from None
                if wrong is not None:
                    raise BadSchema(f"{pointer}/default does not fit the schema beside it")


# -- judging a schema ------------------------------------------------------------------


def _plain(schema: Schema) -> dict[str, Any]:
    """Return a copy of the schema as plain JSON, without ``$schema``."""
    try:
        text = json.dumps(dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadSchema(f"the schema is no JSON object: {error}") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise BadSchema(f"the schema has more than {MAX_SCHEMA_BYTES} bytes")
    plain: dict[str, Any] = json.loads(text)
    if (dialect := plain.pop("$schema", DIALECT)) != DIALECT:
        raise BadSchema(f"$schema is {dialect!r}; it must be {DIALECT}")
    if plain.get("type", "object") != "object":
        raise BadSchema("params are an object: the type of the schema must be 'object'")
    return plain


def _check_metaschema(schema: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise BadSchema(f"{_pointer(error.absolute_path) or 'the schema'}: {error.message}") from None
    except RecursionError:
        raise BadSchema("the schema is nested too deeply") from None


def _parts(schema: Any, pointer: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schema and all schemas within it, each with its place."""
    if depth > MAX_DEPTH:
        raise BadSchema("the schema is nested too deeply")
    if not isinstance(schema, dict):
        return
    yield pointer, schema
    inner = [
        (f"{key}/{_escaped(name)}", each) for key in _SCHEMAS_BY_NAME for name, each in schema.get(key, {}).items()
    ]
    inner += [(f"{key}/{at}", each) for key in _LISTS_OF_SCHEMAS for at, each in enumerate(schema.get(key, ()))]
    inner += [(key, schema[key]) for key in _SCHEMAS if key in schema]
    for place, each in inner:
        yield from _parts(each, f"{pointer}/{place}", depth + 1)


def _judge(pointer: str, part: dict[str, Any], defs: Mapping[str, Any]) -> None:
    """Refuse a schema whose own keywords cannot be bounded."""
    if refused := sorted(REFUSED & part.keys()) + (["$schema"] if "$schema" in part else []):
        raise BadSchema(f"{pointer}/{refused[0]} is not supported for params")
    if "$ref" in part:
        found = _REFERENCE.fullmatch(part["$ref"])
        if found is None or (found[1] is not None and found[1] not in defs):
            raise BadSchema(f"{pointer}/$ref must be '#', or '#/$defs/NAME' with a NAME that is there")
    if "pattern" in part:
        try:
            check_pattern(part["pattern"], longest=min(part.get("maxLength", MAX_TEXT), MAX_TEXT))
        except CostlyPattern as error:
            raise BadSchema(f"{pointer}/pattern: {error}") from None


# -- checking values -------------------------------------------------------------------


@functools.cache
def _validator_class() -> Any:
    """Return the validator of 2020-12 that counts its steps."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    keywords = {name: _counted(check) for name, check in Draft202012Validator.VALIDATORS.items()}
    keywords |= {"pattern": _counted(_pattern), "uniqueItems": _counted(_unique_items)}
    return extend(Draft202012Validator, keywords)


def _no_documents() -> Any:
    """Return a registry that reads no other document, from nowhere."""
    from referencing import Registry

    return Registry()


def _counted(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _spend()
        yield from check(validator, rule, instance, schema) or ()

    return counted


def _pattern(validator: Any, rule: str, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    if not isinstance(instance, str) or len(instance) > min(schema.get("maxLength", MAX_TEXT), MAX_TEXT):
        return  # a text that is too long fails by maxLength; its pattern was not judged for it
    if re.search(rule, instance) is None:
        yield ValidationError("does not match")


def _unique_items(validator: Any, rule: bool, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if rule and isinstance(instance, list):
        _spend(len(instance))
        if len({_canonical(each) for each in instance}) < len(instance):
            yield ValidationError("has equal items")


def _canonical(value: Any) -> str:
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


_WORDS: Final[dict[str, str]] = {
    "additionalItems": "has too many items",
    "const": "must be {rule}",
    "enum": "must be one of {rule}",
    "exclusiveMaximum": "must be below {rule}",
    "exclusiveMinimum": "must be above {rule}",
    "maxItems": "must have at most {rule} items",
    "maxLength": "must have at most {rule} characters",
    "maxProperties": "must have at most {rule} fields",
    "maximum": "must be at most {rule}",
    "minItems": "must have at least {rule} items",
    "minLength": "must have at least {rule} characters",
    "minProperties": "must have at least {rule} fields",
    "minimum": "must be at least {rule}",
    "multipleOf": "must be a multiple of {rule}",
    "pattern": "does not match {rule}",
    "type": "must be of the type {rule}",
    "uniqueItems": "has equal items",
}
"""What is said of a value, by the keyword that refused it; ``rule`` is the schema's."""

MAX_RULE_CHARACTERS: Final = 200
"""Characters of a schema's rule that a message shows."""


def _bad_params(error: Any) -> BadParams:
    """Return the refusal: where it is, and what the schema wants there."""
    pointer, keyword, rule = _pointer(error.absolute_path), error.validator, error.validator_value
    if keyword == "required":
        missing = next(name for name in rule if name not in error.instance)
        return BadParams(f"{pointer}/{_escaped(missing)}", "is missing")
    if keyword == "additionalProperties" and rule is False:
        known = error.schema.get("properties", {})
        unknown = next(name for name in error.instance if name not in known)
        return BadParams(f"{pointer}/{_escaped(unknown)}", "is unknown to this processor")
    if keyword == "type" and isinstance(rule, list):
        said = " or ".join(map(str, rule))
    elif keyword == "enum":
        said = ", ".join(json.dumps(each, ensure_ascii=False) for each in rule)
    elif keyword == "type":
        said = str(rule)
    else:
        said = json.dumps(rule, ensure_ascii=False)
    if len(said) > MAX_RULE_CHARACTERS:
        said = said[:MAX_RULE_CHARACTERS] + " …"
    words = _WORDS.get(keyword or "", "does not fit the processor's schema")
    return BadParams(pointer, words.replace("{rule}", said))


def _pointer(path: Any) -> str:
    return "".join(f"/{_escaped(str(each))}" for each in path)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
