"""The rule of `TRYON_PRIVATE_PATHS`: which requests may read pages for the operator.

Pure; who sent a request is found out where it was received, in the web or in a worker.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Literal

from server.config.authorities import is_loopback
from server.config.parsing import LOOPBACK, OPEN
from server.config.settings import Config


class PrivateRule:
    """The rule of one process, made from its settings."""

    __slots__ = ("_rule",)

    def __init__(self, config: Config) -> None:
        self._rule = config.private_paths or (OPEN if is_loopback(config.host) else LOOPBACK)

    def __repr__(self) -> str:
        return f"<PrivateRule {self.name}>"

    @property
    def name(self) -> str:
        """The rule's own word; ``token`` stands for any token."""
        return self._rule if self._rule in (OPEN, LOOPBACK) else "token"

    def judge(self, authorization: str, local: Callable[[], bool]) -> Literal["allowed", "hidden", "token_required"]:
        """Judge a request by its ``Authorization`` field.

        ``local``: whether a program of this machine sent it for itself.
        """
        if self._rule == OPEN:
            return "allowed"
        if self._rule == LOOPBACK:
            return "allowed" if local() else "hidden"
        scheme, _, given = authorization.partition(" ")
        right = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._rule.encode())
        return "allowed" if right else "token_required"
