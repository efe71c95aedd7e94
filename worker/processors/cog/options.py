"""The options of the processor ``cog``, and what it says of itself by them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tryon.processor import OUTPUT_TYPES, Info, OutputRole, Role
from tryon.processor.patterns import check_pattern

_POSITIVE: Final = {"type": "number", "exclusiveMinimum": 0}
_COUNT: Final = {"type": "integer", "minimum": 1, "maximum": 64}
_NAMES: Final = {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}}

ROLE_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "input": {"type": "string", "minLength": 1},
        "required": {"type": "boolean"},
        "count": _COUNT,
        "formats": {"type": "array", "items": {"type": "string"}},
        "max_bytes": {"type": "integer", "minimum": 1},
        "max_pixels": {"type": "integer", "minimum": 1},
        "hint": {"type": "string", "maxLength": 200},
    },
    "required": ["input"],
    "additionalProperties": False,
}
"""JSON Schema of one role: the model's ``input`` that it fills, and its limits."""

SCHEMA: Final = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "pattern": "^https?://"},
        "token": {"type": "string"},
        "hosts": {"type": "array", "items": {"type": "string"}},
        "private_hosts": {"type": "array", "items": {"type": "string"}},
        "roles": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[a-z][a-z0-9_]{0,31}$"},
            "additionalProperties": ROLE_SCHEMA,
        },
        "params": _NAMES,
        "params_schema": {"type": "object"},
        "fixed": {"type": "object"},
        "seed": {"type": "string", "minLength": 1},
        "outputs": _NAMES,
        "result": {"enum": ["all", "last"]},
        "max_outputs": _COUNT,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"match": {"type": "string", "format": "regex"}, "code": {"type": "string"}},
                "required": ["match", "code"],
                "additionalProperties": False,
            },
        },
        "label": {"type": "string", "maxLength": 200},
        "version": {"type": "string", "maxLength": 64},
        "generated": {"type": "boolean"},
        "privacy": {"type": "string", "maxLength": 1000},
        "typical_seconds": _POSITIVE,
        "concurrency": _COUNT,
        "warming_seconds": _POSITIVE,
        "unreachable_seconds": {"type": "number", "minimum": 0},
        "busy_seconds": _POSITIVE,
    },
    "additionalProperties": False,
}
"""JSON Schema of the options; :class:`CogOptions` tells what each means."""

ERROR_CHARACTERS: Final = 2000
"""How much of a failure's text is searched."""

ERRORS: Final = (
    (r"nsfw|safety checker|moderat|sensitive content", "moderated_output"),
    (r"\bno (person|human|people|body|face)\b|\b(person|human|face) (was )?not (found|detected)", "person_not_found"),
    (r"\bno (garment|clothing)\b|\b(garment|clothing) (was )?not (found|detected)", "garment_not_found"),
    (r"\bpose (was |is )?not (found|detected|supported)|\bno pose\b", "pose_not_supported"),
    (r"cannot identify image|unreadable image", "unreadable_image"),
)
"""Patterns in the error of a failed prediction, and the code that each stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CogOptions:
    """The options, each with its default."""

    url: str = "http://127.0.0.1:5000"
    """The address of the Cog server."""
    token: str | None = field(default=None, repr=False)
    """Bearer token for a proxy in front of it."""
    hosts: tuple[str, ...] = ()
    """Further hosts that a link in an output may name, such as the storage behind
    ``--upload-url``.
    """
    private_hosts: tuple[str, ...] = ()
    """Those of ``hosts`` that may have a private address; the server itself may."""
    roles: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"person": {"input": "person", "required": True}, "garment": {"input": "garment"}}
    )
    """The roles of the upload by name, as :data:`ROLE_SCHEMA` has them.

    A role with a ``count`` above 1 fills a list.
    """
    params: Mapping[str, str] = field(default_factory=dict)
    """The model's input for each parameter that has another name there."""
    params_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "additionalProperties": False})
    """JSON Schema of the parameters that a client may send; none by default."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Inputs of the model that are the same in each run."""
    seed: str | None = None
    """The model's input for the session's seed."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """The role of each file of an output with named files; others are left out.

    Empty: every file is a ``result``.
    """
    result: str = "all"
    """``last``: a model that yields several files shows how its picture grows; all but
    the last are previews.
    """
    max_outputs: int = 4
    """Maximum number of outputs of one role."""
    errors: tuple[Mapping[str, str], ...] = ()
    """Regular expressions (``match``) for the text of a failed prediction, and the
    ``code`` of the failure; they come before :data:`ERRORS`.
    """
    label: str = "Cog model"
    version: str = "1"
    generated: bool = True
    """Whether the model is generative AI."""
    privacy: str = "The photo is sent to a model server of this service, which keeps nothing after the run."
    typical_seconds: float | None = None
    concurrency: int = 8
    """Predictions that one child waits for; the server's own limit is what it runs."""
    warming_seconds: float = 300.0
    """Longest wait for a server that starts."""
    unreachable_seconds: float = 10.0
    """Longest wait for a server that does not answer."""
    busy_seconds: float = 2.0
    """Time until a server at capacity is asked again."""

    def info(self) -> Info:
        """Return what the processor says of itself."""
        outputs = sorted(set(self.outputs.values())) or ["result"]
        return Info(
            name="cog",
            version=self.version,
            label=self.label,
            roles=tuple(_role(name, each) for name, each in self.roles.items()),
            outputs=tuple(OutputRole(name=name, types=OUTPUT_TYPES, count=self.max_outputs) for name in outputs),
            params_schema=self.params_schema,
            generated=self.generated,
            privacy=self.privacy,
            typical_seconds=self.typical_seconds,
            concurrency=self.concurrency,
            cancel=True,
            preview=self.result == "last",
        )

    def codes(self) -> list[tuple[re.Pattern[str], str]]:
        """Return the patterns of errors with their codes, first match first.

        Raises ValueError: a pattern is malformed, or could take too long.
        """
        own = [(each["match"], each["code"]) for each in self.errors]
        for pattern, _ in own:
            check_pattern(pattern, longest=ERROR_CHARACTERS)
        return [(re.compile(pattern, re.I), code) for pattern, code in (*own, *ERRORS)]


def _role(name: str, said: Mapping[str, Any]) -> Role:
    return Role(
        name=name,
        required=said.get("required", False),
        count=said.get("count", 1),
        formats=tuple(said.get("formats", ())),
        max_bytes=said.get("max_bytes"),
        max_pixels=said.get("max_pixels"),
        hint=said.get("hint", ""),
    )
