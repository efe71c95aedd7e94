"""A new release under load costs nobody anything."""

from __future__ import annotations

from faults.rows.deploy import ROWS
from faults.tests.conftest import Holds


async def test_a_rolling_deploy_fails_no_request(holds: Holds) -> None:
    await holds(ROWS["rolling-deploy"])
