"""The settings as documents: a plain table, a Markdown table, JSON, a .env file."""

from __future__ import annotations

import dataclasses
import json

from server.config.settings import default_text, table, variable


def rows() -> list[tuple[str, str, str]]:
    """Return variable, default and meaning of every setting."""
    return [(variable(row), _default(row), row.metadata["meaning"].removesuffix(".")) for row in table()]


def _default(row: dataclasses.Field[object]) -> str:
    return f"{default_text(row)} {row.metadata['unit']}".rstrip()


def plain_table() -> str:
    """Return the settings for a terminal, one line each."""
    width = max(len(name) for name, _, _ in rows())
    return "".join(f"{name:{width}}  {meaning} [{default}]\n" for name, default, meaning in rows())


def markdown_table() -> str:
    """Return the settings as docs/settings.md shows them."""
    lines = "".join(f"| `{name}` | {default} | {meaning} |\n" for name, default, meaning in rows())
    return "| Variable | Default | Meaning |\n|---|---|---|\n" + lines


def json_lines() -> str:
    """Return the settings as one JSON object a line."""
    names = ("name", "default", "meaning")
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows())


def env_file() -> str:
    """Return the settings as comments of a .env file.

    Each has its meaning, then the line to edit, with the default where it can be typed.
    """
    head = "# Copy to .env and change what you need. The environment wins over this file.\n"
    parts = [head]
    for row in table():
        name, text = variable(row), default_text(row)
        try:
            row.metadata["parse"](text)
        except ValueError:
            typed, told = "", f" Default: {text}."
        else:
            typed, told = ("", f" Default: {text}.") if row.default in (None, ()) else (text, "")
        unit = f" In {row.metadata['unit']}." if row.metadata["unit"] else ""
        parts.append(f"\n# {row.metadata['meaning']}{unit}{told}\n# {name}={typed}\n")
    return "".join(parts)
