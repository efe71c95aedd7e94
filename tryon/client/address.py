"""The address of a server."""

from __future__ import annotations

from typing import Final

DEFAULT_URL: Final = "http://127.0.0.1:8000"
"""Address of a `tryon up` with the settings that it has by default."""
