"""The database of tests that don't care which: SQLite, or what TEST_DATABASE says.

``TEST_DATABASE=postgresql ./test --all`` runs the whole suite on PostgreSQL. A test
about SQLite itself asks for ``sqlite_url``, or is marked ``sqlite``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

VARIABLE: Final = "TEST_DATABASE"
KINDS: Final = ("sqlite", "postgresql")

KIND: Final = os.environ.get(VARIABLE) or KINDS[0]
"""One of :data:`KINDS`; any other value ends the run."""

ON_POSTGRESQL: Final = KIND == "postgresql"

MakeDatabase: TypeAlias = Callable[[Path], Awaitable[str]]
"""Returns the URL of an empty database for a folder, the same one each time."""


class DefaultDatabase:
    """What a program that a test starts uses, if its environment names no database.

    ``make``: None while that is SQLite in the data folder.
    """

    make: MakeDatabase | None = None


async def environ_for(folder: Path) -> dict[str, str]:
    """Return the variable that names the default database of a folder, if any does."""
    make = DefaultDatabase.make
    return {} if make is None else {"TRYON_DATABASE_URL": await make(folder)}
