"""Limits of one owner and one address, without a database."""

from __future__ import annotations

import pytest

from server.domain.allowance import Allowance, Usage
from tryon.protocol.errors import RateLimited

USAGE = Usage(owner_bytes=100, owner_waiting=3, address_bytes=200, address_waiting=5)


@pytest.mark.parametrize(
    ("least", "limit", "seconds"),
    [
        ({"owner_waiting": 4}, "queue_share_per_owner", 10),
        ({"address_waiting": 6}, "queue_share_per_address", 10),
        ({"owner_bytes": 107}, "stored_bytes_per_owner", 600),
        ({"address_bytes": 207}, "stored_bytes_per_address", 600),
    ],
)
def test_allowance_refuses_what_exceeds_it_by_one(least: dict[str, int], limit: str, seconds: int) -> None:
    """The last place and the last byte may be taken; the refusal names the limit."""
    Allowance(**least).judge(USAGE, 7)
    with pytest.raises(RateLimited) as caught:
        Allowance(**{name: most - 1 for name, most in least.items()}).judge(USAGE, 7)
    assert (caught.value.limit, caught.value.retry_after) == (limit, seconds)


def test_allowance_without_limits_refuses_nothing() -> None:
    """And nothing need be counted for it."""
    Allowance().judge(USAGE, 2**60)
    assert Allowance().unlimited
    assert not Allowance(owner_bytes=1).unlimited
