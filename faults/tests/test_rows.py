"""Every promise is kept while one thing after the other breaks.

A sample of the rows runs in every ``./test``; ``./test --all`` runs them all.
"""

from __future__ import annotations

import pytest

from faults.matrix import GROUPS, ROWS
from faults.tests.conftest import RunRow
from testkit.plugin import note
from testkit.processes import ROOT

PARAMETERS = [pytest.param(name, marks=() if row.sample else pytest.mark.slow) for name, row in ROWS.items()]


@pytest.mark.parametrize("name", PARAMETERS)
async def test_row_keeps_every_promise(request: pytest.FixtureRequest, run_row: RunRow, name: str) -> None:
    """Clients see every transition once, nothing is lost, and nothing is left over."""
    if name.startswith("postgres"):
        note(request, "PostgreSQL")
    await run_row(ROWS[name])


def test_every_row_is_a_test() -> None:
    """Each is a parameter, only the sample is not slow, and each group has a sample."""
    assert [parameter.values[0] for parameter in PARAMETERS] == list(ROWS)
    sample = {parameter.values[0] for parameter in PARAMETERS if not parameter.marks}
    assert sample == {name for name, row in ROWS.items() if row.sample}
    for group in GROUPS:
        assert sample & set(group)


def test_complete_run_leaves_nothing_out() -> None:
    """``./test --all`` passes no option that deselects a test, and CI calls it."""
    script = (ROOT / "test").read_text()
    assert script.count("--sample") == 1
    assert "exec ./test --all" in (ROOT / ".ci" / "run").read_text()
