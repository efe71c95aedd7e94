"""The codes as a type are those of the tables."""

from __future__ import annotations

from typing import Final

from tryon.protocol.codes import ErrorCode
from tryon.protocol.errors import CODES, FAILURES

OF_THE_CLIENT: Final = {"network", "unknown", "closed", "erased", "cancelled"}


def test_error_codes_are_those_of_the_tables() -> None:
    """Each code of a table has its member, and no other code has one."""
    assert {code.value for code in ErrorCode} == {*CODES, *FAILURES, *OF_THE_CLIENT}
    assert all(code.name == code.value.upper() for code in ErrorCode)
