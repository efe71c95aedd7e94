"""The generated secret: made once, read by every process of the data folder."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def read_or_make(path: Path) -> str:
    """Return the secret in ``path``; write one first (mode 0600) if there is none.

    Of processes that start at the same moment one writes, and all return the same.
    Raises OSError if the file can neither be read nor made.
    """
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()  # also on a disk that is full
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".secret.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # atomic, and never replaces a secret that exists
    finally:
        draft.unlink()
    return path.read_text().strip()
