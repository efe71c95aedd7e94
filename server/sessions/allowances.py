"""The most that one owner and one address may have, and the plans, by the settings."""

from __future__ import annotations

import math

from server.config.settings import Config
from server.domain.allowance import Allowance
from server.domain.quotas import Plan, Plans


def allowance_of(config: Config) -> Allowance:
    """Return what one owner and one address may have; a share is one place at least."""

    def places(share: float | None) -> int | None:
        return None if share is None else max(1, math.ceil(share * config.queue_limit))

    return Allowance(
        owner_bytes=config.stored_bytes_per_owner,
        owner_waiting=places(config.queue_share_per_owner),
        address_bytes=config.stored_bytes_per_address,
        address_waiting=places(config.queue_share_per_address),
    )


def plans_of(config: Config) -> Plans:
    """Return the plans of the settings."""
    return Plans(
        plans=[
            Plan(
                name=plan.name,
                scope=plan.scope,
                uploads_per_day=plan.uploads_per_day,
                concurrent_sessions=plan.concurrent_sessions,
                stored_bytes=plan.stored_bytes,
                processors=plan.processors,
            )
            for plan in config.quotas
        ],
        claim=config.quota_claim,
    )
