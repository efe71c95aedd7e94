"""Numbers as text: parsed once, whatever a client or an operator wrote."""

from __future__ import annotations

import sys
import time

import pytest

from tryon.protocol.numbers import LARGEST, decimal, whole_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("007", 7),
        ("00000005099999999999999999999", LARGEST),
        (str(LARGEST), LARGEST),
        (str(LARGEST + 1), LARGEST),
        ("0" * 50_000 + "12", 12),
        ("9" * 50_000, LARGEST),
    ],
)
def test_whole_number_has_one_value_however_long(text: str, value: int) -> None:
    """Leading zeros count for nothing; a number beyond 63 bits is the largest one."""
    assert whole_number(text) == value


@pytest.mark.parametrize("text", ["", " 1", "1 ", "+1", "-1", "1_0", "1.0", "1e3", "0x1", "９", "²", "१", "1\n", "nan"])
def test_whole_number_refuses_other_text(text: str) -> None:
    """Nothing but ASCII digits is a number: no sign, space, separator or exponent."""
    assert whole_number(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("25", 25.0),
        ("0.05", 0.05),
        (".5", 0.5),
        ("3.", 3.0),
        ("1e3", 1000.0),
        ("2.9520889342453804e+130", 2.9520889342453804e130),
        ("2.2250738585072014e-308", 2.2250738585072014e-308),
        ("9e999", sys.float_info.max),
        ("0" * 500 + "7.5" + "0" * 500, 7.5),
    ],
)
def test_decimal_accepts_plain_numbers(text: str, value: float) -> None:
    """Digits with at most one point, and an exponent; the value is finite."""
    assert decimal(text) == value


@pytest.mark.parametrize(
    "text", ["", ".", "-1", "+1", " 1", "1_0", "nan", "inf", "infinity", "９", "1e", "1e9999", "1.2.3"]
)
def test_decimal_refuses_other_text(text: str) -> None:
    """No sign, no word, no foreign digits, no exponent beyond three of them."""
    assert decimal(text) is None


def test_long_number_costs_linear_time() -> None:
    """A megabyte of digits is read in well under a second (``int`` takes minutes)."""
    begin = time.process_time()
    assert whole_number("1" * 2**20) == LARGEST
    assert decimal("1" * 2**20) == float(LARGEST)
    assert time.process_time() - begin < 1
