"""The checker's own tables say the same as the product's, without sharing any."""

from __future__ import annotations

import ast
from pathlib import Path

from server.chaos import rules
from tryon.protocol import close_codes, states


def test_transitions_match_the_protocol() -> None:
    """Hold both tables of transitions to each other."""
    assert {
        (before and before.value, event.value, after.value) for (before, event), after in states.TRANSITIONS.items()
    } == rules.TRANSITIONS
    assert {status.value for status in states.Status} == rules.STATUSES
    assert {status.value for status in states.TERMINAL} == rules.TERMINAL


def test_close_codes_match_the_protocol() -> None:
    """Hold both judgements of every close code to each other."""
    for row in close_codes.CLOSE_CODES:
        if row.code >= 4000:
            assert close_codes.may_reconnect(row.code) != (rules.stops(row.code) or row.code in rules.GONE), row
    assert {int(code) for code in close_codes.AT_ONCE} == rules.AT_ONCE
    assert close_codes.CloseCode(rules.LOST) is close_codes.CloseCode.ABNORMAL
    assert close_codes.CloseCode.DONE in rules.DELIVERED
    assert {close_codes.CloseCode.NOT_FOUND, close_codes.CloseCode.GONE} <= rules.GONE


def test_judges_import_nothing_of_the_product() -> None:
    """Keep the product's tables out of every module that judges."""
    folder = Path(rules.__file__).parent
    for name in ("rules", "verdict", "facts", "screens", "answers", "checker", "records"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        foreign = {each for each in modules if each.startswith(("tryon", "server", "worker"))}
        assert all(each.startswith("server.chaos") for each in foreign), name
