"""The options of the processor ``gradio``, and what it says of itself by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tryon.processor import IMAGE_TYPES, OUTPUT_TYPES, Info, OutputRole, Role
from tryon.processor.patterns import check_pattern
from worker.processors.gradio.failures import TEXT_LENGTH, Rule
from worker.processors.gradio.templates import Json, parsed, references, roles_of

_SPACES: Final = ".hf.space"
"""End of the host of every space of Hugging Face."""

_COUNT: Final = {"type": "integer", "minimum": 1, "maximum": 64}
_NAME: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}
_ROLE: Final = {"pattern": "^[a-z][a-z0-9_]{0,31}$"}

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "pattern": "^https?://"},
        "token": {"type": ["string", "null"]},
        "private_hosts": {"type": "array", "items": {"type": "string"}},
        "ca_file": {"type": ["string", "null"]},
        "calls": {
            "type": "array",
            "minItems": 1,
            "maxItems": 8,
            "items": {
                "type": "object",
                "properties": {
                    "name": _NAME,
                    "api": {"type": "string", "minLength": 1},
                    "data": {"type": "array"},
                    "weight": {"type": "number", "exclusiveMinimum": 0},
                },
                "required": ["api", "data"],
                "additionalProperties": False,
            },
        },
        "outputs": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": _ROLE,
            "additionalProperties": {"type": "string", "pattern": r"^\$result\."},
        },
        "previews": {"type": "boolean"},
        "roles": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": _ROLE,
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "required": {"type": "boolean"},
                    "count": _COUNT,
                    "formats": {"type": "array", "items": {"enum": list(IMAGE_TYPES)}},
                    "max_bytes": {"type": "integer", "minimum": 1},
                    "max_pixels": {"type": "integer", "minimum": 1},
                    "hint": {"type": "string", "maxLength": 200},
                },
                "additionalProperties": False,
            },
        },
        "params_schema": {"type": "object"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "match": {"type": "string", "format": "regex"},
                    "code": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$"},
                },
                "required": ["match", "code"],
                "additionalProperties": False,
            },
        },
        "label": {"type": ["string", "null"], "maxLength": 200},
        "version": {"type": "string", "maxLength": 64},
        "generated": {"type": "boolean"},
        "privacy": {"type": ["string", "null"], "maxLength": 1000},
        "typical_seconds": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "concurrency": _COUNT,
        "max_outputs": _COUNT,
    },
    "additionalProperties": False,
}
"""JSON Schema of the options; :class:`GradioOptions` tells what each means."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function of the app."""

    name: str
    """References name its results by it."""
    api: str
    """The function's ``api_name``."""
    data: Json
    """One value for each input of the function, with references."""
    weight: float
    """Its part of the progress, against the weights of the other calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradioOptions:
    """The options, each with its default.

    Raises ValueError: one line that says what does not fit.
    """

    url: str = "http://127.0.0.1:7860"
    """The address of the app; a space's is ``https://OWNER-NAME.hf.space``."""
    token: str | None = field(default=None, repr=False)
    """Bearer token: of Hugging Face for a private space, or to have its quota count."""
    private_hosts: Sequence[str] = ()
    """The app's host, if its address is not public."""
    ca_file: str | None = None
    """Certificate authorities in place of the usual ones."""
    calls: Sequence[Mapping[str, Any]] = ({"api": "/tryon", "data": ["$input.person", "$input.garment"]},)
    """The calls of a run, one after the other: ``api``, ``data``, and if there are
    several ``name`` and ``weight``. :mod:`~worker.processors.gradio.templates` has the
    references in ``data``.
    """
    outputs: Mapping[str, str] | None = None
    """The reference to the files of each output role, the most important one first; the
    default is ``result``, the first value of the last call.
    """
    previews: bool = False
    """Whether the last call's function yields pictures on its way; they are shown."""
    roles: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"person": {"required": True}, "garment": {"required": True}}
    )
    """The roles of the upload by name, in their order."""
    params_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "additionalProperties": False})
    """JSON Schema of the parameters that a client may send; none by default."""
    errors: Sequence[Mapping[str, str]] = ()
    """Regular expressions (``match``) for the text of a failure, and the ``code`` that
    it stands for; they come before those of
    :mod:`~worker.processors.gradio.failures`.
    """
    label: str | None = None
    version: str = "1"
    generated: bool = True
    """Whether the model is generative AI."""
    privacy: str | None = None
    typical_seconds: float | None = None
    concurrency: int = 8
    """Calls that one child waits for; the app's own limit is what it runs."""
    max_outputs: int = 4
    """Maximum number of outputs of one role."""

    def __post_init__(self) -> None:
        known: set[str] = set()
        for call in self.calls_in_order():
            if call.name in known:
                raise ValueError(f"two calls have the name {call.name!r}")
            self._check(call.data, known)
            known.add(call.name)
        for role, reference in self.named_outputs().items():
            if not reference.startswith("$result."):
                raise ValueError(f"output {role!r}: {reference!r} is no result of a call")
            self._check(reference, known)
        self.rules()

    def _check(self, template: Json, calls: set[str]) -> None:
        """Return if every reference leads to something. Raises ValueError."""
        if unknown := roles_of(template) - set(self.roles):
            raise ValueError(f"{min(unknown)!r} is no role")
        for reference in references(template):
            if (call := parsed(reference)["call"]) is not None and call not in calls:
                raise ValueError(f"{reference!r}: no earlier call has this name")

    def calls_in_order(self) -> tuple[Call, ...]:
        """Return the calls; one without a name has that of its function."""
        return tuple(
            Call(
                name=str(each.get("name") or str(each["api"]).strip("/")),
                api=str(each["api"]).strip("/"),
                data=each["data"],
                weight=float(each.get("weight", 1)),
            )
            for each in self.calls
        )

    def named_outputs(self) -> Mapping[str, str]:
        """Return the reference to the files of each output role."""
        return self.outputs or {"result": f"$result.{self.calls_in_order()[-1].name}.0"}

    def rules(self) -> tuple[Rule, ...]:
        """Return the operator's own rules for the texts of failures.

        Raises ValueError: a pattern is malformed, or could take too long.
        """
        rules = tuple(Rule.parse(each["match"], each["code"]) for each in self.errors)
        for rule in rules:
            check_pattern(rule.pattern.pattern, longest=TEXT_LENGTH)
        return rules

    @property
    def host(self) -> str:
        """The app's host."""
        return httpx.URL(self.url).host

    def headers(self) -> Mapping[str, str]:
        """Return the headers with the token.

        Of a space's requests Hugging Face takes one header away, and hands the other
        one to the code of the space, which may be a stranger's.
        """
        name = "X-HF-Authorization" if self.host.endswith(_SPACES) else "Authorization"
        return {name: f"Bearer {self.token}"} if self.token else {}

    def info(self) -> Info:
        """Return what the processor says of itself."""
        return Info(
            name="gradio",
            version=self.version,
            label=self.label or f"Gradio app at {self.host}; interrupted work begins anew",
            roles=tuple(_role(name, each) for name, each in self.roles.items()),
            outputs=tuple(
                OutputRole(name=name, types=OUTPUT_TYPES, count=self.max_outputs) for name in self.named_outputs()
            ),
            params_schema=self.params_schema,
            generated=self.generated,
            privacy=self.privacy
            or f"The photo is sent to {self.host}, which cannot be told to delete it: "
            "how long it stays there is that app's own choice.",
            typical_seconds=self.typical_seconds,
            concurrency=self.concurrency,
            cancel=True,
            preview=self.previews,
        )


def _role(name: str, options: Mapping[str, Any]) -> Role:
    """Return a role of the options. Raises TypeError: an option is unknown."""
    formats = tuple(options.get("formats", ()))
    return Role(**{**options, "name": name, "formats": formats})
