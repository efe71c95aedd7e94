"""The page about reliability and the rows that its figures come from."""

from __future__ import annotations

import re

from faults.matrix import ROWS
from testkit.processes import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_row_is_on_the_page_with_its_command_and_no_other() -> None:
    assert sorted(re.findall(r"`--only ([a-z-]+)`", PAGE)) == sorted(ROWS)


def test_the_page_says_what_happens_as_the_row_does() -> None:
    for name, row in ROWS.items():
        assert f"| {row.fault} |" in PAGE, name
