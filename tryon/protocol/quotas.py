"""A caller's plan as JSON, with what is used of it and what is left."""

from __future__ import annotations

import msgspec


class QuotaAmount(msgspec.Struct, frozen=True):
    """One kind of use; without a limit, ``limit`` and ``remaining`` are null."""

    limit: int | None
    used: int
    remaining: int | None


class QuotaView(msgspec.Struct, frozen=True):
    """The plan of a caller; all but ``resets_at`` is null without one.

    ``uploads_per_day`` counts until ``resets_at``, midnight in UTC. ``processors``:
    those that the plan includes; null: all.
    """

    plan: str | None
    uploads_per_day: QuotaAmount | None
    concurrent_sessions: QuotaAmount | None
    stored_bytes: QuotaAmount | None
    processors: list[str] | None
    resets_at: str
