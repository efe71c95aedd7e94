"""A caller's quota: chosen by its identity, checked early, and shown."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TypeVar

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.quotas import QuotaCounts
from server.adapters.redis.exhausted import ExhaustedSubjects
from server.domain.identities import Identity
from server.domain.quotas import DAY_SECONDS, Plans, Quota, UsedUp, day_of
from server.domain.session import timestamp
from server.domain.tokens import Signer
from tryon.protocol.errors import Forbidden
from tryon.protocol.quotas import QuotaAmount, QuotaView

T = TypeVar("T")


class Quotas:
    """The plans of a server, and what callers have used of them; stateless.

    ``processor``: the one that new sessions are for.
    """

    def __init__(
        self,
        *,
        plans: Plans,
        counts: QuotaCounts,
        exhausted: ExhaustedSubjects,
        signer: Signer,
        database_clock: DatabaseClock,
        processor: str,
    ) -> None:
        self._plans = plans
        self._counts = counts
        self._exhausted = exhausted
        self._signer = signer
        self._database_clock = database_clock
        self._processor = processor

    def __repr__(self) -> str:
        return f"<Quotas plans={len(self._plans.plans)}>"

    def of(self, identity: Identity | None, address: str) -> Quota | None:
        """Return a caller's quota; None if nothing is limited."""
        plan = self._plans.of(identity)
        if plan is None:
            return None
        by_address = identity is None or identity.anonymous
        whom = address if identity is None or by_address else identity.owner
        return Quota(plan=plan, subject=self._signer.subject_hash(whom), by_address=by_address)

    def judge_processor(self, quota: Quota | None) -> None:
        """Raise Forbidden if the plan does not include the processor."""
        if quota is not None and not quota.plan.grants(self._processor):
            raise Forbidden("processor_not_allowed")

    async def check(self, quota: Quota | None) -> None:
        """Refuse a new session of a caller that has no upload left today.

        The insert has the last word. Raises RateLimited, and Forbidden if the plan does
        not include the processor.
        """
        self.judge_processor(quota)
        if quota is None or quota.plan.uploads_per_day is None:
            return
        now = self._database_clock.now()
        exhausted = await self._exhausted.has(quota, now=now)
        if exhausted is None:
            exhausted = await self._counts.uploads_today(quota) >= quota.plan.uploads_per_day
        if exhausted:
            raise UsedUp(now=now)

    async def noting(self, quota: Quota | None, made: Awaitable[T]) -> T:
        """Return what an insert returns.

        A refusal that lasts until midnight is remembered for the day that it judged:
        the insert may have waited for another one, and midnight may have passed.
        """
        try:
            return await made
        except UsedUp as refused:
            if quota is not None:
                await self._exhausted.note(quota, day=refused.day, now=self._database_clock.now())
            raise

    async def view(self, identity: Identity | None, address: str) -> QuotaView:
        """Return a caller's plan with what is used of it."""
        quota, now = self.of(identity, address), self._database_clock.now()
        resets_at = timestamp(datetime.fromtimestamp((day_of(now) + 1) * DAY_SECONDS, UTC))
        if quota is None:
            return QuotaView(None, None, None, None, None, resets_at)
        owner = "" if identity is None else identity.owner
        use = await self._counts.use(quota, owner=owner, address_hash=self._signer.address_hash(address))
        plan = quota.plan
        return QuotaView(
            plan.name,
            _amount(plan.uploads_per_day, use.uploads_per_day),
            _amount(plan.concurrent_sessions, use.concurrent_sessions),
            _amount(plan.stored_bytes, use.stored_bytes),
            None if plan.processors is None else list(plan.processors),
            resets_at,
        )


def _amount(limit: int | None, used: int) -> QuotaAmount:
    return QuotaAmount(limit, used, None if limit is None else max(0, limit - used))
