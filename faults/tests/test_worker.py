"""A worker that dies, freezes or stops in any moment of a job: each session ends on the
screen, and once.
"""

from __future__ import annotations

import pytest

from faults.rows.worker import ROWS
from faults.tests.conftest import Holds


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tested])
async def test_every_session_ends_once_whatever_becomes_of_its_worker(holds: Holds, name: str) -> None:
    await holds(ROWS[name])
