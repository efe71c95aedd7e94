"""Virtual environments of programs whose packages must not mix with the project's own.

Each has a lock file with hashes, ``tests/FOLDER/NAME/requirements.lock``, and is made
below ``.venv`` on first use. ``python -m testkit.environments`` makes all of them, as
``./test`` does, so that no test waits for an installation.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = "tests/*/{}/requirements.lock"
"""Pattern of the lock file's path, by the environment's name."""

INSTALL_SECONDS: Final = 540.0
"""Longest installation; it takes half a minute on an idle machine."""


class EnvironmentMissing(Exception):
    """The packages cannot be installed here."""


def python_of(name: str) -> Path:
    """Return the Python of the environment ``name``, made if it is missing or stale.

    Blocks while another process makes it. Raises :class:`EnvironmentMissing`.
    """
    [lock] = ROOT.glob(LOCK.format(name))
    home = ROOT / ".venv" / "environments" / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(f"{home}\n{sys.version}\n{lock.read_text()}".encode()).hexdigest()
    python, stamp = home / "bin" / "python", home / "tryon-stamp"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{home.name}.making").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)  # ends with this process
        if not (stamp.exists() and stamp.read_text() == digest):
            _make(home, lock)
            stamp.write_text(digest)
    return python


def _make(home: Path, lock: Path) -> None:
    """Make the environment and install the packages of its lock file."""
    pip = (sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install")
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes", "--only-binary", ":all:")
    commands = (
        (sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)),
        (*pip, *options, "-r", str(lock)),
    )
    for command in commands:
        try:
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except subprocess.CalledProcessError as error:
            raise EnvironmentMissing(f"{lock.parent.name}: {' '.join(error.stderr.split())[-400:]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnvironmentMissing(f"{lock.parent.name}: {error}") from error


def main() -> int:
    """Make every environment; return 1 if one cannot be made, after naming it."""
    status = 0
    for lock in sorted(ROOT.glob(LOCK.format("*"))):
        try:
            python_of(lock.parent.name)
        except EnvironmentMissing as error:
            print(f"Missing: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
