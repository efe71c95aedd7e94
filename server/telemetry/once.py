"""Says of each thing once what would else fill the log."""

from __future__ import annotations

from typing import Final

MAX_KEYS: Final = 1024
"""Maximum keys remembered; the oldest is evicted, and may be logged again."""


class Once:
    """Remembers what was logged."""

    def __init__(self, *, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._keys: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<Once {len(self._keys)}>"

    def first(self, key: str) -> bool:
        """Return whether this is the first time, since :meth:`over`, and note it."""
        if key in self._keys:
            return False
        if len(self._keys) >= self._max_keys:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = None
        return True

    def over(self, key: str) -> bool:
        """Forget a key; return whether it was known."""
        if key not in self._keys:
            return False
        del self._keys[key]
        return True
