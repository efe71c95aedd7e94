"""What a call is given: JSON with references to inputs, parameters and results.

===========================  ==========================================================
``$input.ROLE``              the first image of this role, ``null`` if there is none
``$input.ROLE.N``            the one with index N
``$inputs.ROLE``             all of them, as a list of files
``$gallery.ROLE``            all of them, as a ``gr.Gallery`` takes them
``$params.NAME``             a parameter of the session, ``null`` if it is missing
``$seed``                    the session's seed
``$result.CALL.N…``          the value N that an earlier call returned; further
                             numbers and names lead into it
``$null``                    ``null``, which TOML lacks
``$$…``                      a text that begins with one ``$``
===========================  ==========================================================

A reference stands for a whole string. Dicts and lists may hold them at any depth: a
``gr.ImageEditor`` is ``{background = "$input.person", layers = [], composite =
"$null"}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Json: TypeAlias = Any
"""What ``json.loads`` returns."""

FileData: TypeAlias = Mapping[str, Any]
"""A file as Gradio's JSON has it: an object with a ``path`` on the app's machine."""

_NAME: Final = r"[A-Za-z0-9_-]+"
REFERENCE: Final = re.compile(
    rf"\$(?:(?P<word>null|seed)|(?P<kind>inputs|gallery|params)\.(?P<name>{_NAME})"
    rf"|input\.(?P<role>{_NAME})(?:\.(?P<index>\d+))?|result\.(?P<call>{_NAME})(?P<way>(?:\.{_NAME})+))"
)


@dataclass(frozen=True, slots=True)
class Values:
    """What references stand for in one run."""

    files: Mapping[str, Sequence[FileData]]
    """The uploaded inputs by role."""
    params: Mapping[str, Json]
    seed: int
    results: Mapping[str, Sequence[Json]]
    """What earlier calls returned, by the call's name."""


def references(template: Json) -> Iterator[str]:
    """Yield the references in a template, in their order."""
    if isinstance(template, str):
        if template.startswith("$") and not template.startswith("$$"):
            yield template
    elif isinstance(template, Mapping):
        for each in template.values():
            yield from references(each)
    elif isinstance(template, list | tuple):
        for each in template:
            yield from references(each)


def roles_of(template: Json) -> set[str]:
    """Return the roles whose inputs a template uses.

    Raises ValueError as :func:`parsed` does.
    """
    found = (parsed(each) for each in references(template))
    return {each["role"] or each["name"] for each in found if each["role"] or each["kind"] in ("inputs", "gallery")}


def parsed(reference: str) -> re.Match[str]:
    """Return the parts of a reference. Raises ValueError: it is none."""
    if (match := REFERENCE.fullmatch(reference)) is None:
        raise ValueError(f"{reference!r} is no reference; a text that begins with $ is written with $$")
    return match


def filled(template: Json, values: Values) -> Json:
    """Return the template with its references replaced.

    Raises ValueError: a call returned nothing where a reference leads.
    """
    if isinstance(template, str):
        if template.startswith("$$"):
            return template[1:]
        return _value(parsed(template), values) if template.startswith("$") else template
    if isinstance(template, Mapping):
        return {name: filled(each, values) for name, each in template.items()}
    if isinstance(template, list | tuple):
        return [filled(each, values) for each in template]
    return template


def _value(reference: re.Match[str], values: Values) -> Json:
    """Return what one reference stands for."""
    if reference["word"]:
        return values.seed if reference["word"] == "seed" else None
    if call := reference["call"]:
        value: Json = values.results[call]
        try:
            for step in reference["way"][1:].split("."):
                value = value[int(step)] if isinstance(value, list) else value[step]
        except (LookupError, TypeError) as error:
            raise ValueError(f"the app returned nothing as {reference[0]}") from error
        return value
    if role := reference["role"]:
        files, index = values.files.get(role, ()), int(reference["index"] or 0)
        return files[index] if index < len(files) else None
    if reference["kind"] == "params":
        return values.params.get(reference["name"])
    files = values.files.get(reference["name"], ())
    return list(files) if reference["kind"] == "inputs" else [{"image": each, "caption": None} for each in files]


def files_in(value: Json) -> list[FileData]:
    """Return the files that a returned value holds, the one that matters of each.

    A gallery has several; of an ``ImageEditor``'s images the composite is meant.
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("path"), str):
            return [value]
        for name in ("composite", "background", "image", "video"):
            if found := files_in(value.get(name)):
                return found
        return []
    if isinstance(value, list | tuple):
        return [file for each in value for file in files_in(each)]
    return []
