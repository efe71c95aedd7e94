"""The failure of a command: one line on standard error, and an exit status."""

from __future__ import annotations

import sys
from typing import NoReturn


def fail(message: str, status: int) -> NoReturn:
    """Print ``tryon: <message>`` and exit."""
    print(f"tryon: {message}", file=sys.stderr)
    sys.exit(status)
