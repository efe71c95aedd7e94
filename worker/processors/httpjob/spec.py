"""What a TOML file says of an upstream, as data; presets, and the schema of both.

:data:`SCHEMA` describes every option; :func:`read` turns checked options into a
:class:`Spec`, and refuses what the schema cannot express.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from tryon.processor import IMAGE_TYPES, Info, OutputRole, Role
from worker.processors.httpjob.pictures import Limits
from worker.processors.httpjob.templates import TRUSTED, names_in

PRESETS: Final = Path(__file__).with_name("presets")
SENDS: Final = ("data_url", "base64", "url")
"""Forms of a picture in a request; ``url``: it is uploaded first."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request; all but ``method`` are templates."""

    path: str
    method: str = "GET"
    json: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 30.0
    ok: tuple[int, ...] = ()
    """Statuses that count as a success, besides 200 to 299."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Upload(Call):
    """The request that uploads a picture as the ``field`` of a form."""

    method: str = "POST"
    field: str = "file"
    url: str
    """Path of the picture's URL in the answer."""
    keep: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names, and paths in the answer: what ``forget`` calls the picture."""
    forget: Call | None = None
    """The request that deletes the picture."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submit(Call):
    """The request that begins the work."""

    method: str = "POST"
    keep: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names, and paths in the answer: the checkpoint. Later templates use the names."""
    chosen: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names, and templates: ids of our own choice, in the checkpoint before it is sent.
    """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Poll(Call):
    """The request that asks how far the work is; paths lead into its answer."""

    every: float = 1.0
    """Seconds between two of them."""
    status: str = "status"
    done: tuple[str, ...] = ("succeeded",)
    failed: tuple[str, ...] = ("failed",)
    lost: tuple[str, ...] = ()
    """Statuses of work that the upstream does not know any more; so is 404 or 410."""
    stages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Text to show, by status."""
    progress: str | None = None
    progress_scale: float = 1.0
    """What stands for the end: 1 or 100."""
    position: str | None = None
    position_first: int = 1
    """The position of the job that is next: 0 or 1."""
    preview: str | None = None
    """Path of an intermediate picture: a link, a data URL or base64."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Where the files are."""

    files: str = ""
    """Path of URLs, data URLs or base64: one, or a list."""
    fetch: Call | None = None
    """The request for the result, where the last answer does not hold it."""
    count: int = 1
    """Maximum number of files."""
    seconds: float = 60.0
    """Time for the download of one file."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the error table; the first that fits decides."""

    code: str
    status: tuple[int, ...] = ()
    """HTTP statuses; empty: any, and also work that failed."""
    at: str = ""
    """Path of the text that the next two compare."""
    equals: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    """In any case of its letters. Neither this nor ``equals``: every text fits."""
    retryable: bool | None = None
    requeue: bool = False
    retry_after: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """How the pictures of a role are sent."""

    send: str = "data_url"
    merge: bool = False
    limits: Limits = dataclasses.field(default_factory=Limits)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """An upstream."""

    url: str
    hosts: tuple[str, ...]
    private_hosts: tuple[str, ...]
    header_hosts: tuple[str, ...]
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    ca_file: str | None
    key: str | None = dataclasses.field(repr=False)
    info: Info
    pictures: Mapping[str, Picture]
    variables: Mapping[str, Any]
    upload: Upload | None
    submit: Submit
    poll: Poll | None
    result: Result
    usage: Mapping[str, str | float]
    """Paths or numbers, by ``credits``, ``cost_usd`` and ``gpu_seconds``."""
    cancel: Call | None
    forget: Call | None
    errors: tuple[Rule, ...]

    @property
    def needed(self) -> frozenset[str]:
        """Return the names of ``submit.keep`` that a later request is made with.

        Work whose result comes with the answer is neither asked for nor cancelled.
        """
        waits = () if self.poll is None else (self.poll, self.result.fetch, self.cancel)
        return frozenset().union(*map(names_of, (*waits, self.forget))) & set(self.submit.keep)


# -- reading ---------------------------------------------------------------------------


def preset(name: str) -> dict[str, object]:
    """Return the options of a preset. Raises ValueError: there is none of this name."""
    known = sorted(each.stem for each in PRESETS.glob("*.toml"))
    if name not in known:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(known)}")
    return tomllib.loads((PRESETS / f"{name}.toml").read_text("utf-8"))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, object]:
    """Return both; where both have a table they are merged, else ``above`` wins."""
    both = dict(below)
    for name, value in above.items():
        under = both.get(name)
        both[name] = merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return both


def read(given: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Spec:
    """Return what the options say. Raises ValueError: one line."""
    options: dict[str, Any] = dict(given)
    if (name := options.pop("preset", None)) is not None:
        options = merged(preset(name), options)
    for needed in ("url", "submit"):
        if needed not in options:
            raise ValueError(f"{needed} is missing; so is a preset")
    unknown = sorted(set(options) - set(SCHEMA["properties"]))
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r}")
    roles = options.get("roles") or {"person": {"required": True}, "garment": {}}
    options["result"] = _with_call(options.get("result", {}), "result", "fetch")
    if options.get("upload") is not None:
        options["upload"] = _with_call(options["upload"], "upload", "forget")
    spec = Spec(
        url=options["url"],
        hosts=tuple(options.get("hosts", ())),
        private_hosts=tuple(options.get("private_hosts", ())),
        header_hosts=tuple(options.get("header_hosts", ())),
        headers=options.get("headers", {}),
        ca_file=options.get("ca_file"),
        key=_key(options, os.environ if environment is None else environment),
        info=_info(options, roles, name),
        pictures={role: _picture(role, table) for role, table in roles.items()},
        variables=options.get("vars", {}),
        upload=_optional(Upload, options, "upload"),
        submit=_table(Submit, options["submit"], "submit"),
        poll=_optional(Poll, options, "poll"),
        result=_table(Result, options["result"], "result"),
        usage=options.get("usage", {}),
        cancel=_optional(Call, options, "cancel"),
        forget=_optional(Call, options, "forget"),
        errors=tuple(_table(Rule, row, f"errors.{number}") for number, row in enumerate(options.get("errors", ()))),
    )
    _check(spec)
    return spec


def _info(options: Mapping[str, Any], roles: Mapping[str, Any], preset: str | None) -> Info:
    host = options["url"].partition("://")[2].partition("/")[0].rpartition("@")[2]
    return Info(
        name=options.get("name") or (f"httpjob-{preset}" if preset else "httpjob"),
        label=options.get("label", ""),
        roles=tuple(
            Role(
                name=role,
                required=table.get("required", False),
                count=table.get("count", 1),
                formats=tuple(table.get("formats", ())),
                max_bytes=table.get("max_bytes"),
                max_pixels=table.get("max_pixels"),
                hint=table.get("hint", ""),
            )
            for role, table in roles.items()
        ),
        outputs=(
            OutputRole(
                types=tuple(options.get("types", (*IMAGE_TYPES,))), count=options.get("result", {}).get("count", 1)
            ),
        ),
        params_schema=options.get("params", {"type": "object"}),
        generated=options.get("generated", True),
        privacy=options.get("privacy", f"The photo is sent to {host}."),
        typical_seconds=options.get("typical_seconds"),
        concurrency=options.get("concurrency", 4),
        cancel="cancel" in options,
        preview="preview" in options.get("poll", {}),
    )


def _picture(role: str, table: Mapping[str, Any]) -> Picture:
    send = table.get("send", "data_url")
    if send not in SENDS:
        raise ValueError(f"roles.{role}.send is {send!r}, not one of {', '.join(SENDS)}")
    limits = Limits(
        pixels=table.get("send_pixels"),
        bytes=table.get("send_bytes"),
        types=tuple(table.get("send_types", IMAGE_TYPES)),
    )
    if not limits.types or not set(limits.types) <= set(IMAGE_TYPES):
        raise ValueError(f"roles.{role}.send_types: {', '.join(IMAGE_TYPES)}")
    return Picture(send=send, merge=table.get("merge", False), limits=limits)


def _key(options: Mapping[str, Any], environment: Mapping[str, str]) -> str | None:
    if (name := options.get("key_env")) is not None:
        if not environment.get(name):
            raise ValueError(f"key_env: there is no environment variable {name}")
        return environment[name]
    key: str | None = options.get("key")
    return key


def _check(spec: Spec) -> None:
    """Raise ValueError for what no schema can say."""
    if spec.key is None and any("key" in names_in(each) for each in (spec.headers, spec.submit.headers)):
        raise ValueError("key is missing: give key, or key_env with the name of an environment variable")
    uploads = any(picture.send == "url" for picture in spec.pictures.values())
    if uploads and spec.upload is None:
        raise ValueError("a role is sent as url, and there is no upload")
    unsend = None if spec.upload is None else spec.upload.forget
    calls = [spec.upload, spec.submit, spec.poll, spec.result.fetch, spec.cancel, spec.forget]
    for call in (*calls, unsend):
        if call is None:
            continue
        if "key" in names_in([call.path, call.json]):
            raise ValueError("{key} may stand in headers only")
        answered = {f"{{{name}}}" for name in names_in(call.path) if not name.startswith(TRUSTED)}
        if "key" in names_in(call.headers) and call.path in answered:
            raise ValueError(f"{call.path} may lead to any of hosts: give {{key}} in the headers above all tables")
    later = {name for call in calls[2:] for name in names_of(call)}
    if lacking := sorted(later - set(spec.submit.keep) - set(spec.submit.chosen)):
        raise ValueError(f"{{{lacking[0]}}} is neither in submit.keep nor in submit.chosen")
    if spec.upload is not None and (lacking := sorted(names_of(unsend) - set(spec.upload.keep))):
        raise ValueError(f"upload.forget: {{{lacking[0]}}} is not in upload.keep")
    if unsend is not None and spec.forget is None:
        raise ValueError("upload.forget needs forget: else a receipt would promise that the result is deleted, too")
    if uploads and spec.forget is not None and unsend is None:
        raise ValueError("forget needs upload.forget: else a receipt would promise that the uploads are deleted, too")
    always = {"session", "job", "seed", *(f"vars.{name}" for name in spec.variables)}
    if lacking := sorted(set(names_in(spec.submit.chosen)) - always):
        raise ValueError(f"submit.chosen: {{{lacking[0]}}} may have no value")
    if (spec.cancel or spec.forget) and not (spec.submit.keep or spec.submit.chosen):
        raise ValueError("cancel and forget need a name in submit.keep or submit.chosen")


def names_of(call: Call | None) -> set[str]:
    """Return the names in a call that stand for something of an answer before it."""
    found = set() if call is None else set(names_in([call.path, call.json, call.headers]))
    return {name for name in found if name != "key" and not name.startswith(TRUSTED)}


def _with_call(table: Mapping[str, Any], where: str, name: str) -> Mapping[str, Any]:
    """Return a table, one of whose options is a request of its own."""
    return table if table.get(name) is None else {**table, name: _table(Call, table[name], f"{where}.{name}")}


def _optional(kind: type[_T], options: Mapping[str, Any], name: str) -> _T | None:
    return None if options.get(name) is None else _table(kind, options[name], name)


def _table(kind: type[_T], table: Mapping[str, Any], where: str) -> _T:
    known = {each.name for each in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass each
    if unknown := sorted(set(table) - known):
        raise ValueError(f"there is no option {where}.{unknown[0]}")
    values = {
        name: tuple(value) if isinstance(value, list) and name != "json" else value for name, value in table.items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {str(error).partition(')')[2].strip()}") from error


# -- the schema of the options ---------------------------------------------------------

_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_STATUSES: Final = {"type": "array", "items": {"type": "integer", "minimum": 100, "maximum": 599}}
_NAMES: Final = {"type": "object", "additionalProperties": _TEXT}
_COUNT: Final = {"type": "integer", "minimum": 1}
_SECONDS: Final = {"type": "number", "exclusiveMinimum": 0, "maximum": 3600}
_CALL: Final = {
    "path": _TEXT,
    "method": {"enum": ["GET", "POST", "PUT", "PATCH", "DELETE"]},
    "json": True,
    "headers": _NAMES,
    "seconds": _SECONDS,
    "ok": _STATUSES,
}


def _object(**properties: object) -> dict[str, object]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


_TYPES: Final = {"type": "array", "items": {"enum": list(IMAGE_TYPES)}, "minItems": 1}

SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        preset=_TEXT,
        url=_TEXT,
        hosts=_TEXTS,
        private_hosts=_TEXTS,
        header_hosts=_TEXTS,
        headers=_NAMES,
        ca_file=_TEXT,
        key=_TEXT,
        key_env=_TEXT,
        name={"type": "string", "maxLength": 64},
        label=_TEXT,
        privacy=_TEXT,
        typical_seconds=_SECONDS,
        generated={"type": "boolean"},
        concurrency={"type": "integer", "minimum": 1, "maximum": 64},
        types=_TEXTS,
        params={"type": "object"},
        vars={"type": "object"},
        usage=_object(**{each: {"type": ["string", "number"]} for each in ("credits", "cost_usd", "gpu_seconds")}),
        roles={
            "type": "object",
            "additionalProperties": _object(
                required={"type": "boolean"},
                count=_COUNT,
                formats=_TEXTS,
                max_bytes=_COUNT,
                max_pixels=_COUNT,
                hint=_TEXT,
                send={"enum": list(SENDS)},
                send_pixels=_COUNT,
                send_bytes=_COUNT,
                send_types=_TYPES,
                merge={"type": "boolean"},
            ),
        },
        upload=_object(**_CALL, field=_TEXT, url=_TEXT, keep=_NAMES, forget=_object(**_CALL)),
        submit=_object(**_CALL, keep=_NAMES, chosen=_NAMES),
        poll=_object(
            **_CALL,
            every=_SECONDS,
            status=_TEXT,
            done=_TEXTS,
            failed=_TEXTS,
            lost=_TEXTS,
            stages=_NAMES,
            progress=_TEXT,
            progress_scale={"type": "number", "exclusiveMinimum": 0},
            position=_TEXT,
            position_first={"enum": [0, 1]},
            preview=_TEXT,
        ),
        result=_object(files=_TEXT, fetch=_object(**_CALL), count=_COUNT, seconds=_SECONDS),
        cancel=_object(**_CALL),
        forget=_object(**_CALL),
        errors={
            "type": "array",
            "items": {
                **_object(
                    code=_TEXT,
                    status=_STATUSES,
                    at=_TEXT,
                    equals=_TEXTS,
                    contains=_TEXTS,
                    retryable={"type": "boolean"},
                    requeue={"type": "boolean"},
                    retry_after=_SECONDS,
                ),
                "required": ["code"],
            },
        },
    ),
}
"""JSON Schema of the options."""
