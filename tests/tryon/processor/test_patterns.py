"""Patterns of a schema: those that could take too long are refused."""

from __future__ import annotations

import re
import time

import pytest

from tryon.processor.patterns import CostlyPattern, check_pattern


@pytest.mark.parametrize(
    "pattern",
    ["^[a-z]+$", "^#[0-9a-fA-F]{6}$", "^(jpg|png)$", r"^\d{1,4}x\d{1,4}$", "^[a-z]+ [a-z]*$", "portrait", ""],
)
def test_pattern_is_accepted_when_its_ways_are_few(pattern: str) -> None:
    """Patterns as processors have them are taken."""
    check_pattern(pattern, longest=64)


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$",
        "^(a|aa)+$",
        "^(a?b?)*$",
        "^(.*a){20}$",
        r"^(\w+\s?)*$",
        r"^(a)\1$",
        "^(?=a)a$",
        "^.*.*.*.*x$",
        "(",
        "a{99999999999999}",
        "^" + "a?" * 40 + "$",
        "x" * 300,
        "(" * 120 + ")" * 121,
    ],
)
def test_pattern_is_refused_when_it_could_take_long(pattern: str) -> None:
    """Nested repeats, alternatives in repeats, and unknown constructs."""
    with pytest.raises(CostlyPattern):
        check_pattern(pattern, longest=4096)


@pytest.mark.parametrize("pattern", ["^[a-z]+ [a-z]*x$", r"^\d*\d*x$", "^(a|b|c)?[abc]*[abc]*x$"])
def test_pattern_ends_soon_on_the_worst_text(pattern: str) -> None:
    """An accepted pattern costs little CPU on a text that almost matches."""
    check_pattern(pattern, longest=256)
    for text in ("a" * 256, "1" * 256, "a " * 128):
        began = time.process_time()
        re.search(pattern, text)
        assert time.process_time() - began < 2.0
