"""testkit/newcomer.py types what the README says, and nothing else."""

from __future__ import annotations

import pytest

from testkit.newcomer import MAX_SECONDS, commands, result_of, run
from testkit.processes import ROOT


def test_newcomer_finds_the_quick_start() -> None:
    """One command starts, the next ones end with a picture."""
    start, first = commands()
    assert start == "./run"
    assert result_of(first) == "out.jpg"
    assert all(line.startswith(".venv/bin/tryon ") for line in first.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(560)
async def test_newcomer_sees_a_result() -> None:
    """A fresh clone, the README, a warm package cache.

    The minute itself is measured by ``python -m testkit.newcomer`` on a quiet machine.
    """
    assert await run(ROOT, cold=False) <= 8 * MAX_SECONDS
