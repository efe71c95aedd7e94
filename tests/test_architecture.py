"""Imports follow the layers of the layout; the rules stand in ``pyproject.toml``."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
PRODUCT: Final = {"tryon", "server", "worker"}
MAY_IMPORT: Final = {
    "tryon": {"tryon"},
    "server": {"server", "tryon"},
    "worker": {"worker", "server", "tryon"},
    "testkit": {"testkit"} | PRODUCT,
    "tests": {"tests", "testkit"} | PRODUCT,
    "faults": {"faults", "testkit"} | PRODUCT,
    "benchmarks": {"benchmarks", "testkit"} | PRODUCT,
}
"""The top-level packages of this project that each of them may import."""


def modules(package: str) -> Iterator[tuple[Path, set[str]]]:
    """Yield each file of a package with the top-level names that it imports.

    Tests have no ``__init__.py``, so import-linter does not see their folders.
    """
    for path in sorted((ROOT / package).rglob("*.py")):
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
        yield path, imported


def test_imports_follow_the_layers() -> None:
    """import-linter finds no broken contract."""
    lint = "import sys; from importlinter.cli import lint_imports_command as lint; sys.argv[0] = 'lint'; lint()"
    result = subprocess.run(
        [sys.executable, "-c", lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_lower_packages(package: str) -> None:
    """``tests``, ``faults`` and ``benchmarks`` stand on ``testkit`` alone."""
    found = list(modules(package))
    assert found
    for path, imported in found:
        forbidden = (imported & set(MAY_IMPORT)) - MAY_IMPORT[package]
        assert not forbidden, (str(path.relative_to(ROOT)), forbidden)


def test_top_level_packages_are_all_listed() -> None:
    """A new folder with Python in it needs a place among the layers first."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    packages = {folder.name for folder in folders if any(folder.rglob("*.py"))} - {"alembic", "docs"}
    assert packages == set(MAY_IMPORT)
    assert packages == set(PROJECT["tool"]["importlinter"]["root_packages"])


def test_alembic_is_no_package() -> None:
    """As a package it would hide the library of the same name."""
    assert not (ROOT / "alembic" / "__init__.py").exists()


@pytest.mark.parametrize("name", ["run", "test", ".ci/run", ".ci/variants"])
def test_scripts_are_executable(name: str) -> None:
    """Each parses as bash, too."""
    assert (ROOT / name).stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ROOT / name], check=True)
