"""The promises of ``tryon.v1``, written down once more and by hand.

These tables share nothing with :mod:`tryon.protocol`, so that a fault of the product,
its client included, hides nothing from the checker. A test compares them with the
product's.
"""

from __future__ import annotations

from typing import Final

STATUSES: Final = frozenset({"created", "processing", "completed", "failed", "cancelled"})
TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})

TRANSITIONS: Final = frozenset(
    {
        (None, "created", "created"),
        ("created", "processing", "processing"),
        ("created", "failed", "failed"),
        ("created", "cancelled", "cancelled"),
        ("processing", "completed", "completed"),
        ("processing", "failed", "failed"),
        ("processing", "cancelled", "cancelled"),
        ("processing", "requeued", "created"),
    }
)
"""(status before, event, status after) of every transition that may happen."""

DELIVERED: Final = frozenset({1000, 204})
"""Close code and HTTP status after which nothing follows: the client has seen the end.
"""

GONE: Final = frozenset({404, 4504, 4510})
"""Answers to an owner whose session was erased."""

REFUSED_OWNER: Final = frozenset({401, 403, 4500, 4501})
"""Answers that no owner of a session may get."""

HONEST_REFUSALS: Final = frozenset({0, 409, 429, 503, 507})
"""Answers to an owner's call that are fine in trouble: none, or one that says to retry.
"""

HIDDEN: Final = frozenset({404, 4504})
"""Answers to a stranger, whether the session exists or not."""

NO_ANSWER: Final = frozenset({0, 429, 503, 507, 1001, 1006, 1012, 4000, 4001, 4029, 4053})
"""Further answers to a stranger: nothing that depends on the session."""

AT_ONCE: Final = frozenset({4001, 4002, 4003})
"""Close codes after which a client reconnects without a pause, the first time."""

LOST: Final = 1006
"""Code of a connection that ended without a close frame."""


def stops(code: int) -> bool:
    """Return whether a client must not return after a close code or HTTP status."""
    return code in (401, 403) or 4500 <= code <= 4999
