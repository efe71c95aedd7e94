"""No text of a client becomes a program: shells, code, pickles, patterns, SQL."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
PRODUCT: Final = ("tryon", "server", "worker")

FORBIDDEN: Final = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "asyncio.create_subprocess_shell"),
    *("pickle.loads", "pickle.load", "marshal.loads", "marshal.load"),
}
TAKES_CONSTANT: Final = {
    *(f"re.{name}" for name in ("compile", "match", "fullmatch", "search", "sub", "findall", "finditer", "split")),
    *("text", "sqlalchemy.text", "exec_driver_sql"),
}
"""Calls whose first argument is a pattern or SQL."""
EXCEPTIONS: Final = {
    "server/chaos/run.py: asyncio.create_subprocess_shell",  # the command that its operator gives `tryon chaos`
    "server/adapters/database/upkeep.py: connection.exec_driver_sql",  # milliseconds of its own
    "worker/processors/cog/options.py: re.compile",  # the operator's, bounded in the same way
    "tryon/processor/patterns.py: re.compile",  # of a schema's author; compiled to be judged
    "worker/processors/gradio/failures.py: re.compile",  # patterns of the operator's options
}


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield all calls, each with the name it calls as written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def constant(pattern: ast.expr) -> bool:
    """Return whether an expression is made of literals and constants alone."""
    names = [node for node in ast.walk(pattern) if isinstance(node, ast.Name)]
    return all(name.id.strip("_").isupper() or name.id == "re" for name in names)


def unsafe(source: str) -> list[str]:
    """Return the calls that may turn data into a program."""
    found = []
    for name, call in calls(ast.parse(source)):
        shell = any(word.arg == "shell" for word in call.keywords)
        ends = name.rpartition(".")[2] if name.endswith("exec_driver_sql") else name
        if name in FORBIDDEN or shell or (ends in TAKES_CONSTANT and call.args and not constant(call.args[0])):
            found.append(name)
    return found


def test_no_data_becomes_a_program() -> None:
    """Shells, code, patterns and SQL are constants; values are bound."""
    modules = [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(modules) > 100
    found = {f"{path.relative_to(ROOT)}: {name}" for path in modules for name in unsafe(path.read_text())}
    assert found == EXCEPTIONS


@pytest.mark.parametrize(
    "source",
    [
        "eval(given)",
        "subprocess.run(given, shell=True)",
        "os.system(given)",
        "re.compile(given)",
        "re.search(f'^{given}', line)",
        "text(f'SELECT {given}')",
        "text('SELECT ' + given)",
        "connection.exec_driver_sql(given)",
        "pickle.loads(given)",
    ],
)
def test_each_kind_would_be_found(source: str) -> None:
    """The check sees every kind that it forbids."""
    assert unsafe(source)


@pytest.mark.parametrize(
    "source", ["re.compile(KEY.pattern + '$')", "text('SELECT :a')", "subprocess.run(('ls', given))"]
)
def test_constants_are_allowed(source: str) -> None:
    """Constants, and lists of arguments, are no finding."""
    assert not unsafe(source)
