"""The page about reliability and the rows that its figures come from."""

from __future__ import annotations

import re

from faults.matrix import ROWS
from testkit.documents import text_of

PAGE = text_of("docs/reliability.md")


def test_page_lists_every_row_with_its_command() -> None:
    """And no other row."""
    assert sorted(re.findall(r"`--only ([a-z-]+)`", PAGE)) == sorted(ROWS)


def test_page_describes_each_fault_as_its_row() -> None:
    """In the words that ``python -m faults matrix --list`` prints."""
    for name, row in ROWS.items():
        assert f"| {row.fault} |" in PAGE, name
