"""The temporary folders of children, which the fork server makes and removes.

Each child has one of its own. What a fork server that was killed leaves is removed when
the pool closes; only a worker that is killed together with it leaves folders behind.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path


def prefix() -> str:
    """Return how the folders' names begin: no two pools have the same."""
    return str(Path(tempfile.gettempdir()).resolve() / f"tryon-processor-{secrets.token_hex(8)}-")


def make(prefix: str) -> Path:
    """Make a folder that no other user may enter. Raises OSError."""
    place = Path(prefix)
    return Path(tempfile.mkdtemp(prefix=place.name, dir=place.parent))


def remove(folder: Path) -> None:
    """Remove a folder and its content, as far as that is possible."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_all(prefix: str) -> None:
    """Remove the folders of all children, as far as that is possible."""
    place = Path(prefix)
    for folder in place.parent.glob(f"{place.name}*"):
        remove(folder)
