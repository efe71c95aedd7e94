"""The arrows of the layout point one way; the rules stand in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_imports_follow_the_layers() -> None:
    lint = "import sys; from importlinter.cli import lint_imports_command as lint; sys.argv[0] = 'lint'; lint()"
    result = subprocess.run(
        [sys.executable, "-c", lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_alembic_stays_a_folder_of_scripts() -> None:
    """As a package it would hide the library of the same name."""
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_scripts_can_be_run() -> None:
    for name in ("run", "test", ".ci/run"):
        assert (ROOT / name).stat().st_mode & 0o111, name
        subprocess.run(["bash", "-n", ROOT / name], check=True)
