"""``TRYON_QUOTAS``: plans as JSON, or in a TOML file, one table each by its name."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_AMOUNTS: Final = ("uploads_per_day", "concurrent_sessions", "stored_bytes")
_FIELDS: Final = frozenset({*_AMOUNTS, "processors", "scope"})
_MOST: Final = 2**53

ANONYMOUS: Final = "anonymous"
"""Name of the plan of anonymous clients."""
DEFAULT: Final = "default"
"""Name of the plan of all callers without another one."""
RESERVED: Final = (ANONYMOUS, DEFAULT)
"""Names of plans that callers have without a scope or a claim; those that
``server.domain.quotas`` looks for.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSetting:
    """A plan as the setting has it; None: no limit."""

    name: str
    scope: str | None = None
    uploads_per_day: int | None = None
    concurrent_sessions: int | None = None
    stored_bytes: int | None = None
    processors: tuple[str, ...] | None = None


def plans(text: str) -> tuple[PlanSetting, ...]:
    """Parse plans. Raises ValueError."""
    try:
        tables = json.loads(text) if text.startswith("{") else tomllib.loads(Path(text).expanduser().read_text())
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise ValueError(f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    except (ValueError, RecursionError):
        raise ValueError("must be a JSON object, or the path of a TOML file") from None
    if not isinstance(tables, dict):
        raise ValueError("must be a table of plans")
    return tuple(_plan(name, table) for name, table in tables.items())


def _plan(name: str, table: object) -> PlanSetting:
    if not isinstance(table, dict) or set(table) - _FIELDS:
        raise ValueError(f"plan {name!r} is a table with some of {', '.join(sorted(_FIELDS))}")
    for field in _AMOUNTS:
        amount = table.get(field, 0)
        if not isinstance(amount, int) or isinstance(amount, bool) or not 0 <= amount <= _MOST:
            raise ValueError(f"{field} of plan {name!r} must be a whole number")
    processors, scope = table.get("processors"), table.get("scope")
    if processors is not None and not (
        isinstance(processors, list) and all(isinstance(each, str) for each in processors)
    ):
        raise ValueError(f"processors of plan {name!r} must be a list of names")
    if scope is not None and not isinstance(scope, str):
        raise ValueError(f"scope of plan {name!r} must be a scope")
    return PlanSetting(
        name=name,
        scope=scope,
        processors=None if processors is None else tuple(processors),
        **{field: table[field] for field in _AMOUNTS if field in table},
    )
