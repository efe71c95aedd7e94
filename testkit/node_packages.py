"""The npm packages that tests need, and the JavaScript client as one.

They are locked with their hashes and installed below ``.venv`` on first use: those for
tests of the client, and apart from them a storage server's. ``python -m
testkit.node_packages`` installs them, as ``./test`` does, so that no test waits for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

from testkit.environments import INSTALL_SECONDS, EnvironmentMissing
from testkit.processes import ROOT

CLIENT_TESTS: Final = "node"
AZURITE: Final = "azurite"

LOCKED: Final = {
    CLIENT_TESTS: ROOT / "tests/static/packages",
    AZURITE: ROOT / "tests/server/adapters/files/packages",
}
"""Folders of the lock files, by the name of the environment."""

CLIENT: Final = "tryon-push"


def node_packages(name: str = CLIENT_TESTS) -> Path:
    """Return ``node_modules`` with the locked packages, made if it is missing or stale.

    Blocks while another process makes it. Raises :class:`EnvironmentMissing`.
    """
    locked = LOCKED[name]
    home = ROOT / ".venv" / "environments" / name
    digest = hashlib.sha256((locked / "package-lock.json").read_bytes()).hexdigest()
    stamp = home / "tryon-stamp"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{name}.making").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)  # ends with this process
        if not (stamp.exists() and stamp.read_text() == digest):
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(locked, home)
            _npm("ci", "--ignore-scripts", "--prefer-offline", folder=home)
            stamp.write_text(digest)
    return home / "node_modules"


def packed(folder: Path) -> list[str]:
    """Pack the client into ``folder``, as it is published; return its files' names."""
    (found,) = json.loads(_npm("pack", "--json", "--pack-destination", str(folder), folder=ROOT / "static"))
    return sorted(file["path"] for file in found["files"])


def install_client(folder: Path) -> Path:
    """Install the packed client beside the locked packages; return ``folder``.

    A script in ``folder`` imports ``tryon-push`` and ``react`` as a project does.
    """
    modules = folder / "node_modules"
    modules.mkdir()
    for package in node_packages().iterdir():
        (modules / package.name).symlink_to(package)
    packed(folder)
    (archive,) = folder.glob(f"{CLIENT}-*.tgz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    (folder / "package").rename(modules / CLIENT)
    return folder


def _npm(*arguments: str, folder: Path) -> str:
    options = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    try:
        done = subprocess.run(
            ("npm", *arguments, *options),
            cwd=folder, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise EnvironmentMissing(f"npm packages: {' '.join(error.stderr.split())[-400:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentMissing(f"npm packages: {error}") from error
    return done.stdout


def main() -> int:
    """Install the packages; return 1 if they cannot be had, after saying why."""
    failed = 0
    for name in LOCKED:
        try:
            node_packages(name)
        except EnvironmentMissing as error:
            print(f"Missing: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
