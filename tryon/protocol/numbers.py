"""Numbers as text, in a query, a header or a setting: parsed once, then judged.

``int`` and ``float`` take far more than a number of a protocol may look like (signs,
spaces, ``1_0``, digits of every script, ``nan``), refuse more than 4300 digits with an
error of their own, and take quadratic time for long ones. These functions read every
text in linear time and never raise: a caller compares the value with its bounds.
"""

from __future__ import annotations

import re
import sys
from typing import Final

LARGEST: Final = 2**63 - 1
"""The largest whole number: what is larger is taken for this one."""

_LARGEST_DIGITS: Final = len(str(LARGEST))

_DECIMAL: Final = re.compile(r"(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,3}))?")

_FRACTION_DIGITS: Final = 17
"""Digits after the point that can matter to a float."""


def whole_number(text: str) -> int | None:
    """Return the number that ASCII digits write; None for any other text.

    It is at most :data:`LARGEST`, so that comparing it with a bound says the same as
    comparing the number that was written.
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return LARGEST if len(digits) > _LARGEST_DIGITS else min(int(digits or "0"), LARGEST)


def decimal(text: str) -> float | None:
    """Return the number, with or without a point and an exponent; None for other text.

    It is finite and not negative.
    """
    if (found := _DECIMAL.fullmatch(text)) is None:
        return None
    whole, fraction, exponent = found[1] or "0", found[2] or "0", found[3] or "0"
    return min(float(f"{whole_number(whole)}.{fraction[:_FRACTION_DIGITS]}e{exponent}"), sys.float_info.max)
