"""Templates for requests, and paths into answers: what a TOML file says of JSON.

Pure. A template is any JSON value. A string that is one name in braces becomes the
value of that name, whatever its type: ``"{seed}"`` a number, ``"{garment[]}"`` a list.
Names inside a longer string become text. ``{{`` and ``}}`` are braces. What a name
without a value stands in is left out: the key of an object, the item of a list.

A path is keys and indices with dots between: ``data.0.url``; ``*`` means every item of
a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

Json: TypeAlias = Any
"""A JSON value."""
Values: TypeAlias = Mapping[str, Json]

TRUSTED: Final = "vars."
"""Values of the operator: in the path of a URL they may hold slashes."""

_NAME: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_.-]*(?:\[\])?)\}")
_WHOLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*(?:\[\])?)\}")


class Missing(Exception):
    """A name without a value."""


def names_in(template: Json) -> Iterator[str]:
    """Yield the names of a template."""
    match template:
        case str():
            yield from (name for name in _NAME.findall(template) if name)
        case Mapping():
            for each in template.values():
                yield from names_in(each)
        case list() | tuple():
            for each in template:
                yield from names_in(each)


def render(template: Json, values: Values) -> Json:
    """Return the template with its values.

    Raises :class:`Missing`: it is a string, one of whose names has no value.
    """
    match template:
        case str():
            if (whole := _WHOLE.fullmatch(template)) is not None:
                return _value(whole[1], values)
            return render_text(template, values)
        case Mapping():
            return dict(_present(template.items(), values))
        case list() | tuple():
            return [value for _, value in _present(enumerate(template), values)]
        case _:
            return template


def render_text(template: str, values: Values) -> str:
    """Return a text. Raises :class:`Missing`."""
    return _NAME.sub(lambda match: _piece(match, values, quoted=False), template)


def render_path(template: str, values: Values) -> str:
    """Return the path of a URL, or the URL that is a value. Raises :class:`Missing`.

    A value inside of a path is quoted: it cannot lead to another path.
    """
    if (whole := _WHOLE.fullmatch(template)) is not None:
        return str(_value(whole[1], values))
    return _NAME.sub(lambda match: _piece(match, values, quoted=True), template)


def find(value: Json, path: str) -> list[Json]:
    """Return what stands at a path, in order; null and what is not there are left out.

    A list at the end counts as its items. An empty path is the value itself.
    """
    found = [value]
    for part in path.split(".") if path else ():
        found = [below for each in found for below in _below(each, part)]
    flat = [item for each in found for item in (each if isinstance(each, list) else [each])]
    return [each for each in flat if each is not None]


def first(value: Json, path: str | None) -> Json:
    """Return the first value at a path; None: there is none, or no path."""
    return None if path is None else next(iter(find(value, path)), None)


def _below(value: Json, part: str) -> list[Json]:
    match value:
        case Mapping() if part in value:
            return [value[part]]
        case list() if part == "*":
            return value
        case list() if part.isascii() and part.isdigit() and len(part) < 6 and int(part) < len(value):
            return [value[int(part)]]
        case _:
            return []


def _present(pairs: Any, values: Values) -> Iterator[tuple[Any, Json]]:
    for key, template in pairs:
        try:
            yield key, render(template, values)
        except Missing:
            continue


def _value(name: str, values: Values) -> Json:
    value = values.get(name)
    if value is None:
        raise Missing(name)
    return value


def _piece(match: re.Match[str], values: Values, *, quoted: bool) -> str:
    if match[1] is None:
        return match[0][0]
    value = _value(match[1], values)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not quoted:
        return text
    if text.strip(".") == "":
        raise Missing(match[1])  # "..", which would be another path
    return quote(text, safe="/" if match[1].startswith(TRUSTED) else "")
