"""The page about the operator's page names every call of it."""

from __future__ import annotations

import re

from server.config.operator_settings import WRONG_OPERATORS
from server.config.parsing import OPERATOR_TOKEN
from server.domain.operator import ACTION_DAYS, MAX_SESSIONS
from server.web.ops.operations import OPERATIONS
from testkit.documents import text_of


def test_ops_page_lists_every_call() -> None:
    """In the order of the rows."""
    calls = re.findall(r"^\| `(GET|POST) (/ops\S*)` \|", text_of("docs/ops.md"), re.MULTILINE)
    assert calls == [(row.method, row.path) for row in OPERATIONS]


def test_ops_page_has_the_numbers_of_the_code() -> None:
    """Bounds that are said in words, too."""
    page = text_of("docs/ops.md")
    assert f"{MAX_SESSIONS} living sessions" in page
    assert f"deleted after {ACTION_DAYS} days" in page
    assert (WRONG_OPERATORS.limit, WRONG_OPERATORS.seconds) == (10, 60)
    assert OPERATOR_TOKEN.fullmatch("x" * 22)
    assert not OPERATOR_TOKEN.fullmatch("x" * 21)
