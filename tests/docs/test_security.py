"""The page about security has every requirement once, and names tests that exist."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from testkit.documents import text_of
from testkit.processes import ROOT

SECTIONS: Final = (
    "1.1 2, 1.2 10, 1.3 12, 1.4 3, 1.5 3, 2.1 3, 2.2 3, 2.3 5, 2.4 2, 3.1 1, 3.2 3, 3.3 5, 3.4 8, 3.5 8, 3.6 1, 3.7 5, "
    "4.1 5, 4.2 5, 4.3 2, 4.4 4, 5.1 1, 5.2 6, 5.3 3, 5.4 3, 7.1 3, 7.2 4, 7.3 2, 7.4 5, 7.5 3, 7.6 2, 8.1 4, 8.2 4, "
    "8.3 3, 8.4 2, 9.1 3, 9.2 4, 11.1 4, 11.2 5, 11.3 5, 11.4 4, 11.5 2, 11.6 2, 11.7 2, 12.1 5, 12.2 2, 12.3 5, "
    "13.1 4, 13.2 6, 13.3 4, 13.4 7, 14.1 2, 14.2 8, 14.3 3, 15.1 5, 15.2 5, 15.3 7, 15.4 4, 16.1 1, 16.2 5, 16.3 4, "
    "16.4 3, 16.5 4"
)
"""Sections of OWASP ASVS 5.0 and the number of their requirements, without the chapters
about passwords (6), OAuth (10) and WebRTC (17).
"""
WITHOUT_TEST: Final = ("Not applicable:", "Deployment:", "Open:")


def rows() -> list[tuple[list[str], str, str]]:
    """Return the requirements of each row, how they are met, and their test."""
    found = re.findall(
        r"^\| ((?:\d+\.\d+\.\d+(?:, )?)+) \| (.+) \| (.+) \|$", text_of("docs/security.md"), re.MULTILINE
    )
    return [(ids.split(", "), how, test) for ids, how, test in found]


def test_security_page_has_every_requirement_once() -> None:
    """None is forgotten, none is answered twice."""
    sections = (part.split() for part in SECTIONS.split(", "))
    wanted = [f"{section}.{number}" for section, count in sections for number in range(1, int(count) + 1)]
    assert Counter(id for ids, _, _ in rows() for id in ids) == Counter(wanted)


def test_security_page_names_existing_tests() -> None:
    """A test that is renamed is renamed there."""
    files = [path for folder in ("tests", "faults") for path in (ROOT / folder).rglob("test_*.py")]
    defined = set(re.findall(r"def (test_\w+)", "\n".join(path.read_text() for path in files)))
    named = {name for _, _, test in rows() for name in re.findall(r"`(test_\w+)`", test)}
    assert named <= defined, sorted(named - defined)
    assert len(named) >= 60


def test_requirement_without_test_says_why() -> None:
    """It does not apply, is the operator's, or is open."""
    for ids, how, test in rows():
        assert test.startswith("`test_") or (test == "–" and how.startswith(WITHOUT_TEST)), ids
