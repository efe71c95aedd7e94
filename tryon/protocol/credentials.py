"""The client token: how it looks.

A client makes its own token, at least 128 random bits, and shows it with every request
as ``Authorization: Bearer``, as ``X-Client-Token`` or in a WebSocket subprotocol.
"""

from __future__ import annotations

import re
from typing import Final

TOKEN_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII)
"""A client token: 22 characters of this alphabet carry at least 128 random bits."""
