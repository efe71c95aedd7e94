"""Losing Redis in any way loses nothing: clients stay connected and learn everything,
uploads are taken, all of it is done.
"""

from __future__ import annotations

import pytest

from faults.rows.redis import ROWS
from faults.tests.conftest import Holds


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tested])
async def test_nothing_is_lost_with_redis(holds: Holds, name: str) -> None:
    await holds(ROWS[name])
