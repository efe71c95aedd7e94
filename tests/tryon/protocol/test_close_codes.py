"""The table of close codes."""

from __future__ import annotations

import pytest

from tryon.protocol.close_codes import AT_ONCE, BROKEN, CLOSE_CODES, CloseCode, Closing, Reconnect, may_reconnect


def test_close_code_table_is_complete() -> None:
    """Every member of the enumeration has one row."""
    assert sorted(row.code for row in CLOSE_CODES) == sorted(CloseCode)


@pytest.mark.parametrize("row", [row for row in CLOSE_CODES if row.code >= 4000], ids=lambda row: row.code.name)
def test_close_code_number_decides_reconnection(row: Closing) -> None:
    """A client that does not know an application code still does the right thing."""
    assert may_reconnect(row.code) == (row.reconnect is not Reconnect.NO)


def test_close_code_sets_follow_the_table() -> None:
    """A client's two sets are derived from the rows."""
    assert {CloseCode.RESYNC, CloseCode.TOO_SLOW, CloseCode.NO_PONG} == AT_ONCE
    assert {1000, 1002, 1007, 1009} == BROKEN
