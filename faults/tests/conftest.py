"""Rows of the fault matrix, scaled down, as tests.

The real processes are those of ``python -m faults matrix``, broken for seconds.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest

from faults.outcome import Outcome, Row
from faults.pace import SCALED
from testkit.plugin import missing, note

RunRow = Callable[[Row], Awaitable[Outcome]]


@pytest.fixture
def run_row(request: pytest.FixtureRequest) -> RunRow:
    """Run a row; fail with every promise that was broken."""

    async def run(row: Row) -> Outcome:
        note(request, "Valkey")
        try:
            outcome = await row.run(SCALED)
        except ImportError as error:
            missing(str(error))
        except PermissionError as error:
            if os.geteuid() == 0:
                raise
            pytest.skip(f"only root can do what this row needs: {error}")
        stale = f"stale {outcome.stale_seconds:.2f} s"
        print(outcome.summary(), stale, f"recovery {outcome.recovery_seconds}", sep="; ")
        assert not outcome.wrong, "\n".join(outcome.wrong)
        return outcome

    return run
