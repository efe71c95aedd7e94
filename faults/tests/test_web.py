"""A web process that is stopped, killed or badly treated: whoever is told comes back,
the others notice nothing.
"""

from __future__ import annotations

import pytest

from faults.rows.web import ROWS
from faults.tests.conftest import Holds


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tested])
async def test_clients_of_a_web_process_are_served_whatever_comes(holds: Holds, name: str) -> None:
    await holds(ROWS[name])
