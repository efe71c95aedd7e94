"""Plans: who has which, and what they refuse."""

from __future__ import annotations

import pytest

from server.domain.identities import Identity
from server.domain.quotas import DAY_SECONDS, Plan, Plans, Quota, QuotaUse
from tryon.protocol.errors import RateLimited

PLANS = [
    Plan(name="anonymous"),
    Plan(name="default"),
    Plan(name="basic", scope="tryon:basic"),
    Plan(name="pro", scope="tryon:pro"),
]


@pytest.mark.parametrize(
    ("claims", "scopes", "plan"),
    [
        ({}, (), "default"),
        ({}, ("tryon:pro",), "pro"),
        ({}, ("tryon:pro", "tryon:basic"), "basic"),
        ({"tier": "pro"}, ("tryon:basic",), "pro"),
        ({"tier": ["x", "pro"]}, (), "pro"),
        ({"tier": "unknown"}, ("tryon:basic",), "basic"),
        ({"tier": {"pro": 1}}, (), "default"),
        ({"tier": [["pro"], None]}, (), "default"),
    ],
)
def test_claim_wins_over_scope_and_default(claims: dict[str, object], scopes: tuple[str, ...], plan: str) -> None:
    """A value that names no plan counts for nothing."""
    identity = Identity("0" * 64, frozenset(scopes), claims, anonymous=False)
    found = Plans(plans=PLANS, claim="tier").of(identity)
    assert found is not None
    assert found.name == plan


def test_anonymous_clients_have_their_own_plan_or_the_default() -> None:
    """Without any plan nothing is limited."""
    anonymous = Identity.of_token("t" * 43)
    for caller in (None, anonymous):
        assert Plans(plans=PLANS).of(caller) is PLANS[0]
        assert Plans(plans=PLANS[1:]).of(caller) is PLANS[1]
        assert Plans(plans=PLANS[2:]).of(caller) is None


@pytest.mark.parametrize(
    ("use", "limit", "seconds"),
    [
        ((5, 2, 100), None, None),
        ((6, 2, 100), "uploads_per_day", 3600),
        ((5, 3, 100), "concurrent_sessions", 10),
        ((5, 2, 101), "stored_bytes", 600),
        ((6, 3, 101), "uploads_per_day", 3600),
    ],
)
def test_plan_refuses_what_goes_beyond_it(use: tuple[int, int, int], limit: str | None, seconds: int | None) -> None:
    """With the time after which it may grant it."""
    plan = Plan(name="p", uploads_per_day=5, concurrent_sessions=2, stored_bytes=100)
    quota = Quota(plan=plan, subject="s", by_address=False)
    uses = QuotaUse(uploads_per_day=use[0], concurrent_sessions=use[1], stored_bytes=use[2])
    if limit is None:
        quota.judge(uses, now=0)
        return
    with pytest.raises(RateLimited) as refused:
        quota.judge(uses, now=20_000 * DAY_SECONDS - 3600)
    assert (refused.value.code, refused.value.limit, refused.value.retry_after) == ("over_quota", limit, seconds)
