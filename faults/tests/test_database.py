"""Without its database or its disk the product says so, keeps whoever is connected, and
has nothing to repair afterwards.
"""

from __future__ import annotations

import pytest

from faults.rows.database import ROWS
from faults.tests.conftest import Holds
from testkit.plugin import note


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tested])
async def test_nothing_is_wrong_after_an_outage(request: pytest.FixtureRequest, holds: Holds, name: str) -> None:
    if name.startswith("postgres"):
        note(request, "PostgreSQL")
    await holds(ROWS[name])
