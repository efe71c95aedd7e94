"""Arguments and options that several commands share, checked before anything runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Hosts that are spoken to without TLS where no scheme is given."""

FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

JSON: Final = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, one object per line.")


def address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return a whole address; ``https://`` may be left out, on this machine ``http://``."""
    host = value.partition("/")[0]
    local = host in _LOCAL or host.rpartition(":")[0] in _LOCAL
    whole = value if "://" in value else f"{'http' if local else 'https'}://{value}"
    try:
        parts = urlsplit(whole)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise click.BadParameter(f"{value!r} is not an address like https://tryon.example")
    return whole.rstrip("/")


def inputs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[Path]]:
    """Return the files of ``ROLE=FILE``, by role."""
    files: dict[str, list[Path]] = {}
    for value in values:
        role, _, name = value.partition("=")
        path = Path(name).expanduser()
        if not role or not name:
            raise click.BadParameter(f"{value!r} is not ROLE=FILE")
        if not path.is_file():
            raise click.BadParameter(f"{value!r} is not ROLE=FILE: there is no file {name}")
        files.setdefault(role, []).append(path)
    return files


def param(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, object]:
    """Return the parameters; a value that is JSON counts as such, else as text."""
    given: dict[str, object] = {}
    for value in values:
        name, found, text = value.partition("=")
        if not name or not found:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        try:
            given[name] = json.loads(text)
        except ValueError:
            given[name] = text
    return given


def params(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, object] | None:
    """Return the object that a text in JSON holds."""
    try:
        given = None if value is None else json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"it is not JSON: {error}") from None
    if given is not None and not isinstance(given, dict):
        raise click.BadParameter("it is not a JSON object")
    return given


def output(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Return a file or folder that can be written to."""
    if value is None:
        return None
    folder = value if value.is_dir() else value.absolute().parent
    if not folder.is_dir():
        raise click.BadParameter(f"there is no folder {folder}")
    if not os.access(value if value.exists() else folder, os.W_OK):
        raise click.BadParameter(f"cannot write to {value if value.exists() else folder}")
    return value
