"""Params of a client, checked against a processor's JSON Schema (2020-12).

Both sides may be hostile: the client's values always are, and a schema may have been
written by anybody who writes processors. So the work is bounded: a schema is judged
once (:mod:`.schemas`), each check counts its steps (:mod:`.checking`), and so does the
filling in of defaults.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Final

from tryon.processor.checking import CHARACTERS_A_STEP, Check, Steps, TooMuch, Wrong
from tryon.processor.schemas import (
    MAX_DEPTH,
    MAX_SCHEMA_BYTES,
    MAX_STEPS,
    BadSchema,
    Schema,
    escaped,
    judge,
    target,
)
from tryon.protocol.views import Params

__all__ = ["MAX_SCHEMA_BYTES", "BadParams", "BadSchema", "ParamsSchema"]

DEFAULTS_STEPS: Final = 10 * MAX_STEPS
"""Maximum steps for trying all defaults of a schema."""


class BadParams(ValueError):
    """The params do not fit; ``pointer`` (RFC 6901) is the place within them."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(f"{pointer or 'params'}: {message}")
        self.pointer = pointer
        self.message = message


class ParamsSchema:
    """A schema that was judged, and checks params. Safe to share.

    Raises BadSchema.
    """

    def __init__(self, schema: Schema) -> None:
        self._judged = judge(schema)
        self._schema = self._judged.schema
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
        filled: dict[str, Any] = copy.deepcopy(dict(values))
        try:
            wrong = self._fill_and_check(self._schema, filled, Steps(MAX_STEPS))
        except (TooMuch, RecursionError, ArithmeticError):
            raise BadParams("", "is too large to be checked") from None
        if wrong is not None:
            raise _bad_params(wrong)
        return filled

    def _fill_and_check(self, schema: Any, value: Any, steps: Steps) -> Wrong | None:
        self._fill(schema, value, steps, 0)
        return Check(self._judged, steps).first_wrong(schema, value)

    def _fill(self, schema: Any, value: Any, steps: Steps, depth: int) -> None:
        """Set the defaults of all objects within ``value``, in place."""
        steps.spend()
        if depth > MAX_DEPTH:
            raise TooMuch
        if not isinstance(schema, dict):
            return
        if "$ref" in schema:
            self._fill(target(self._schema, schema["$ref"]), value, steps, depth + 1)
        if isinstance(value, dict):
            for key, part in schema.get("properties", {}).items():
                steps.spend()
                if key not in value and isinstance(part, dict) and "default" in part:
                    value[key] = _copied(part["default"], steps)
                if isinstance(value.get(key), dict | list):
                    self._fill(part, value[key], steps, depth + 1)
        elif isinstance(value, list) and isinstance(schema.get("items"), dict):
            for each in value:
                self._fill(schema["items"], each, steps, depth + 1)

    def _try_out(self) -> None:
        """Refuse a schema that no check could end, or whose defaults do not fit it."""
        try:
            self.check({})
        except BadParams as error:
            if error.message == "is too large to be checked":
                raise BadSchema("the schema refers to itself without end, or has too many defaults") from None
        steps = Steps(DEFAULTS_STEPS)
        for pointer, part in self._judged.parts:
            if "default" in part:
                try:
                    wrong = self._fill_and_check(part, _copied(part["default"], steps), steps)
                except (TooMuch, RecursionError, ArithmeticError):
                    raise BadSchema(f"{pointer}/default is too large to be checked") from None
                if wrong is not None:
                    raise BadSchema(f"{pointer}/default does not fit the schema beside it")


def _copied(value: Any, steps: Steps) -> Any:
    """Return a copy of a default; each part of it is paid for."""
    if isinstance(value, str):
        steps.spend(1 + len(value) // CHARACTERS_A_STEP)
        return value
    steps.spend()
    if isinstance(value, dict):
        return {key: _copied(each, steps) for key, each in value.items()}
    return [_copied(each, steps) for each in value] if isinstance(value, list) else value


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


def _bad_params(wrong: Wrong) -> BadParams:
    """Return the refusal: where it is, and what the schema wants there."""
    pointer = "".join(f"/{escaped(str(each))}" for each in reversed(wrong.path))
    keyword, rule = wrong.keyword, wrong.rule
    if keyword == "required":
        missing = next(name for name in rule if name not in wrong.value)
        return BadParams(f"{pointer}/{escaped(missing)}", "is missing")
    if keyword == "additionalProperties":
        known = wrong.schema.get("properties", {})
        unknown = next(name for name in wrong.value if name not in known)
        return BadParams(f"{pointer}/{escaped(unknown)}", "is unknown to this processor")
    if keyword == "type":
        said = rule if isinstance(rule, str) else " or ".join(rule)
    elif keyword == "enum":
        said = ", ".join(json.dumps(each, ensure_ascii=False) for each in rule)
    else:
        said = json.dumps(rule, ensure_ascii=False)
    if len(said) > MAX_RULE_CHARACTERS:
        said = said[:MAX_RULE_CHARACTERS] + " …"
    words = _WORDS.get(keyword, "does not fit the processor's schema")
    return BadParams(pointer, words.replace("{rule}", said))
