"""How a setting is declared: one row of the table of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from server.config import parsing


def setting(
    default: Any,
    meaning: str,
    parse: Callable[[str], Any] = parsing.text,
    *,
    unit: str = "",
    shown: str | None = None,
    may_be_empty: bool = True,
) -> Any:
    """Return one row of the table.

    ``shown``: the default as the documentation writes it. ``may_be_empty``: whether an
    empty text counts as unset; else it is malformed.
    """
    return field(
        default=default,
        metadata={"meaning": meaning, "parse": parse, "unit": unit, "shown": shown, "may_be_empty": may_be_empty},
    )
