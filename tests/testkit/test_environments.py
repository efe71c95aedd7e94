"""Virtual environments of their own for the servers that the tests run against."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testkit import environments
from testkit.environments import EnvironmentMissing, python_of


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a lock file without packages, in a checkout of its own."""
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    path = tmp_path / "tests/processors/empty/requirements.lock"
    path.parent.mkdir(parents=True)
    path.write_text("# no packages\n")
    return path


def test_environment_is_made_once(lock: Path) -> None:
    """It is cached until its lock file changes."""
    python = python_of("empty")
    assert subprocess.run([python, "-c", "import sys; print(sys.prefix != sys.base_prefix)"], check=True)
    mark = python.parent.parent / "mark"
    mark.touch()
    assert python_of("empty") == python
    assert mark.exists()
    lock.write_text("# still none\n")
    python_of("empty")
    assert not mark.exists()


def test_packages_that_cannot_be_installed_are_named(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tests skip aloud with the reason, or fail in CI."""
    lock.write_text("not a requirement\n")
    for _ in range(2):
        with pytest.raises(EnvironmentMissing, match=r"^empty: .*not a requirement"):
            python_of("empty")
    assert environments.main() == 1
    assert "Missing: empty: " in capsys.readouterr().err
