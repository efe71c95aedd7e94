"""The rules for what a processor hands over: its info, its outputs, its checkpoints.

A child process applies them before it passes a value on, and so do the conformance
checks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tryon.processor.interface import IMAGE_TYPES, OUTPUT_TYPES, ROLE, VERSION, Info, Output, OutputRole, Role

MAX_OUTPUT_BYTES: Final = 64 * 2**20
"""Size of one output, at most."""

MAX_PREVIEW_BYTES: Final = 4 * 2**20
"""Size of a preview, at most."""

MAX_CHECKPOINT_BYTES: Final = 16 * 2**10
"""Size of a checkpoint as JSON, at most."""

MAX_FILES: Final = 32
"""Inputs of a job, and outputs of a run, at most."""

_NAME_CHARACTERS: Final = 64
_TEXT_CHARACTERS: Final = 500


def check_info(info: object) -> Info:
    """Return the info of a processor.

    Raises TypeError or ValueError, whose text says what is wrong with it.
    """
    if not isinstance(info, Info):
        raise TypeError(f"info is {info!r}, not an Info")
    if info.interface != VERSION:
        raise ValueError(f"it was written for version {info.interface} of the interface, this is version {VERSION}")
    if not isinstance(info.name, str) or not info.name.strip() or len(info.name) > _NAME_CHARACTERS:
        raise ValueError(f"its name is {info.name!r}, not 1 to {_NAME_CHARACTERS} characters")
    for name in ("version", "label", "privacy"):
        text = getattr(info, name)
        if not isinstance(text, str) or len(text) > _TEXT_CHARACTERS:
            raise ValueError(f"its {name} is {text!r}, not a text of at most {_TEXT_CHARACTERS} characters")
    _check_roles("roles", info.roles, Role)
    _check_roles("outputs", info.outputs, OutputRole)
    for output in info.outputs:
        if not output.types or not set(output.types) <= set(OUTPUT_TYPES):
            raise ValueError(f"types of output {output.name} are {output.types!r}, not of {', '.join(OUTPUT_TYPES)}")
    if not isinstance(info.concurrency, int) or not info.concurrency >= 1:
        raise ValueError(f"its concurrency is {info.concurrency!r}, not a number of runs")
    try:
        json.dumps(dict(info.params_schema), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its params_schema is no JSON object: {error}") from error
    return info


def _check_roles(what: str, roles: Sequence[Role] | Sequence[OutputRole], of: type) -> None:
    if not roles or not all(isinstance(role, of) for role in roles):
        raise TypeError(f"its {what} are {roles!r}, not a tuple of {of.__name__}")
    names = [role.name for role in roles]
    if len(set(names)) < len(names):
        raise ValueError(f"its {what} have a name twice: {', '.join(names)}")
    for role in roles:
        if not isinstance(role.name, str) or not ROLE.fullmatch(role.name):
            raise ValueError(f"{role.name!r} in its {what} is not of the form {ROLE.pattern}")
        if not isinstance(role.count, int) or role.count < 1:
            raise ValueError(f"the count of {role.name} in its {what} is {role.count!r}")
    if sum(role.count for role in roles) > MAX_FILES:
        raise ValueError(f"its {what} are more than {MAX_FILES} files")


def outputs_of(result: object, info: Info | None = None) -> tuple[Output, ...]:
    """Return the outputs that a run has returned.

    With ``info``, their roles and types must be those that it names. Raises TypeError
    or ValueError, whose text says what is wrong.
    """
    outputs = (result,) if isinstance(result, Output) else result
    if not isinstance(outputs, list | tuple) or not outputs or not all(isinstance(each, Output) for each in outputs):
        raise TypeError(f"the processor returned {result!r}, not one Output or several")
    if len(outputs) > MAX_FILES:
        raise ValueError(f"the processor returned {len(outputs)} outputs, more than {MAX_FILES}")
    for output in outputs:
        if not isinstance(output.data, bytes | bytearray | memoryview) or not len(output.data):
            raise TypeError(f"{output!r} has no data")
        if len(output.data) > MAX_OUTPUT_BYTES:
            raise ValueError(f"{output!r} has {len(output.data)} bytes, more than {MAX_OUTPUT_BYTES}")
        if output.type not in OUTPUT_TYPES:
            raise ValueError(f"{output!r} is not of a type of {', '.join(OUTPUT_TYPES)}")
    if info is not None:
        _check_against(info, outputs)
    return tuple(outputs)


def _check_against(info: Info, outputs: Sequence[Output]) -> None:
    roles = {role.name: role for role in info.outputs}
    counts: dict[str, int] = {}
    for output in outputs:
        role = roles.get(output.role)
        if role is None:
            raise ValueError(f"{output!r} has a role that info.outputs does not name")
        if output.type not in role.types:
            raise ValueError(f"{output!r} is not of a type that info.outputs names")
        counts[role.name] = counts.get(role.name, 0) + 1
        if counts[role.name] > role.count:
            raise ValueError(f"the processor returned more than {role.count} outputs of role {role.name}")


def is_preview(data: object, type: object) -> bool:
    """Return whether a preview may be shown."""
    return (
        isinstance(data, bytes | bytearray | memoryview) and 0 < len(data) <= MAX_PREVIEW_BYTES and type in IMAGE_TYPES
    )


def checkpoint_text(checkpoint: Mapping[str, Any]) -> str:
    """Return a checkpoint as JSON.

    Raises TypeError, ValueError: it is no JSON object of at most
    :data:`MAX_CHECKPOINT_BYTES`.
    """
    if not isinstance(checkpoint, Mapping):
        raise TypeError(f"a checkpoint is a JSON object, not {type(checkpoint).__name__}")
    text = json.dumps(dict(checkpoint), allow_nan=False)
    if len(text) > MAX_CHECKPOINT_BYTES:
        raise ValueError(f"the checkpoint has {len(text)} bytes, more than {MAX_CHECKPOINT_BYTES}")
    return text
