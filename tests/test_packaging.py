"""The wheel and the lock files."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from testkit.processes import ROOT

LOCKS = ("requirements.lock", "requirements-test.lock")
OVERLAY = "requirements-overlay.lock"
"""Beside the first, for the processor ``overlay``."""
OVERRIDE = "requirements-redis8.lock"
"""Installed without its dependencies, in front of the others."""
IMAGE = "deploy/requirements.lock"
"""Of the container image."""
SERVERS = tuple(sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/*/*/requirements.lock")))
"""Of the servers that processors are tested against, and of the tools for deploy/."""


def test_wheel_holds_pages_and_migrations(tmp_path: Path) -> None:
    """And no folder that would hide another library."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"server/static/index.html", "server/alembic/env.py", "server/cli/main.py", "worker/settings.py"} <= names
    assert any(name.startswith("server/alembic/versions/") for name in names)
    assert not any(name.startswith(("alembic/", "tests/")) for name in names)


@pytest.mark.parametrize("lock", [*LOCKS, OVERRIDE, IMAGE, *SERVERS])
def test_lock_is_hashed_and_names_no_registry(lock: str) -> None:
    """Any mirror can serve it."""
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.findall(r"^-", text, re.MULTILINE)
    for entry in re.findall(r"^[\w.-]+==.*(?:\n    .*)*", text, re.MULTILINE):
        assert "--hash=sha256:" in entry, entry


def test_locks_agree_on_versions() -> None:
    """An environment made by ./test serves ./run."""
    run, test, overlay = (
        set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.MULTILINE)) for lock in (*LOCKS, OVERLAY)
    )
    image = set(re.findall(r"^\S+==\S+", (ROOT / IMAGE).read_text(), re.MULTILINE))
    assert run | overlay | image <= test


def test_pre_commit_needs_no_network() -> None:
    """Each hook is a program of .venv, which ./test made."""
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        assert hook["language"] == "system"
        assert (ROOT / hook["entry"].split()[0]).exists(), hook["id"]
