"""The size of modules, classes and functions, and what may cross a port."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
PRODUCT: Final = ("tryon", "server", "worker")
EVERYWHERE: Final = (*PRODUCT, "testkit", "tests", "faults", "benchmarks")

MODULE_LINES: Final = 450
CLASS_LINES: Final = 300
CLASS_METHODS: Final = 20
FUNCTION_LINES: Final = 60

EXCEPTIONS: Final = {
    "server/adapters/redis/queue.py: serialize",  # arq's own signature
    "server/adapters/redis/queue.py: deserialize",  # arq's own signature
}
"""Public functions whose signature may say ``dict[str, Any]``."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def trees(*packages: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Yield path, text and syntax tree of every module."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            yield str(path.relative_to(ROOT)), text, ast.parse(text)


def lines_of(node: ast.ClassDef | Function) -> int:
    """Return the length of a definition, without its decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def methods_of(node: ast.ClassDef) -> list[Function]:
    """Return the methods defined in the class itself."""
    return [member for member in node.body if isinstance(member, Function)]


@pytest.mark.parametrize("package", EVERYWHERE)
def test_modules_stay_below_the_limit(package: str) -> None:
    """A longer module is several."""
    found = {path: text.count("\n") for path, text, _ in trees(package)}
    assert found
    assert {path: lines for path, lines in found.items() if lines > MODULE_LINES} == {}


def test_classes_stay_below_the_limits() -> None:
    """A larger class owns more than one kind of state."""
    large = [
        f"{path}: {node.name}"
        for path, _, tree in trees(*PRODUCT)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and (lines_of(node) > CLASS_LINES or len(methods_of(node)) > CLASS_METHODS)
    ]
    assert large == []


def test_functions_stay_below_the_limit() -> None:
    """A longer function is told better in parts."""
    long = [
        f"{path}: {node.name}"
        for path, _, tree in trees(*PRODUCT)
        for node in ast.walk(tree)
        if isinstance(node, Function) and lines_of(node) > FUNCTION_LINES
    ]
    assert long == []


def test_ports_take_and_return_named_types() -> None:
    """No public signature says ``dict[str, Any]``: a value has a type with a name."""
    loose = {
        f"{path}: {node.name}"
        for path, _, tree in trees(*PRODUCT)
        for node in ast.walk(tree)
        if isinstance(node, Function)
        and not node.name.startswith("_")
        and "dict[str, Any]" in ast.unparse(node.args) + (ast.unparse(node.returns) if node.returns else "")
    }
    assert loose == EXCEPTIONS
