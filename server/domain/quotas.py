"""Quotas: what a plan grants its users, and which plan a caller has.

Users are counted by their owner's id. Anonymous clients are counted by their address,
since a new token costs them nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.domain.allowance import STORED_SECONDS, WAITING_SECONDS
from server.domain.identities import Identity
from tryon.protocol.errors import RateLimited

ANONYMOUS: Final = "anonymous"
"""Name of the plan of anonymous clients."""
DEFAULT: Final = "default"
"""Name of the plan of all callers without another one."""
DAY_SECONDS: Final = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The bounds of a caller; None: no limit."""

    name: str
    scope: str | None = None
    """A user with this scope has the plan."""
    uploads_per_day: int | None = None
    """Sessions made in a day of UTC, retries among them, erased ones too."""
    concurrent_sessions: int | None = None
    """Sessions that wait or run."""
    stored_bytes: int | None = None
    """Photos and results, until they are erased."""
    processors: tuple[str, ...] | None = None

    def grants(self, processor: str) -> bool:
        """Return whether the plan includes a processor."""
        return self.processors is None or processor in self.processors


class UsedUp(RateLimited):
    """A refusal by the uploads of ``day``, as :func:`day_of` counts."""

    def __init__(self, *, now: float) -> None:
        super().__init__("over_quota", limit="uploads_per_day", retry_after=seconds_to_midnight(now))
        self.day = day_of(now)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """The use of a caller, living sessions and their bytes as they are now."""

    uploads_per_day: int
    """Today's, in UTC."""
    concurrent_sessions: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One caller's plan, and whom it is counted for."""

    plan: Plan
    subject: str
    """Keyed hash of the owner's id or the address, 32 hex digits."""
    by_address: bool

    def judge(self, use: QuotaUse, *, now: float) -> None:
        """Refuse a session that goes beyond the plan.

        ``use``: with the session, if it were made; ``now``: Unix seconds, of the day
        that it counts for. Raises RateLimited: ``over_quota``.
        """
        plan = self.plan
        if plan.uploads_per_day is not None and use.uploads_per_day > plan.uploads_per_day:
            raise UsedUp(now=now)
        rows = (
            ("concurrent_sessions", plan.concurrent_sessions, use.concurrent_sessions, WAITING_SECONDS),
            ("stored_bytes", plan.stored_bytes, use.stored_bytes, STORED_SECONDS),
        )
        for limit, most, wanted, seconds in rows:
            if most is not None and wanted > most:
                raise RateLimited("over_quota", limit=limit, retry_after=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """All plans. ``claim``: the claim of a JWT whose value names a plan."""

    plans: Sequence[Plan] = ()
    claim: str | None = None

    def of(self, identity: Identity | None) -> Plan | None:
        """Return a caller's plan; None: nothing is limited.

        Of a user: the plan that the claim names, else the first whose scope the JWT
        has, else ``default``. Of a client without a JWT: ``anonymous``, else
        ``default``.
        """
        if identity is None or identity.anonymous:
            return self._named(ANONYMOUS) or self._named(DEFAULT)
        value = None if self.claim is None else identity.claims.get(self.claim)
        names = value if isinstance(value, list) else [value]
        for plan in self.plans:
            if plan.name in names:
                return plan
        for plan in self.plans:
            if plan.scope is not None and plan.scope in identity.scopes:
                return plan
        return self._named(DEFAULT)

    def _named(self, name: str) -> Plan | None:
        return next((plan for plan in self.plans if plan.name == name), None)


def day_of(now: float) -> int:
    """Return the day of a time, counted from 1970 in UTC."""
    return int(now // DAY_SECONDS)


def seconds_to_midnight(now: float) -> float:
    """Return the time to the end of the day in UTC."""
    return (day_of(now) + 1) * DAY_SECONDS - now
