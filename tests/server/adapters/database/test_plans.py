"""The plans of PostgreSQL for what recurs: an index each, whatever lives beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from server.adapters.database.database import Database
from server.domain.allowance import Allowance
from server.domain.quotas import Plan, Quota
from testkit.crowds import add_expired, add_sessions
from testkit.plans import explained
from testkit.running import new_session
from tests.server.adapters.database.steps import brought_to, opened
from tryon.protocol.states import Status

BY_OWNER = Quota(plan=Plan(name="plan"), subject="owner", by_address=False)
BY_ADDRESS = Quota(plan=Plan(name="plan"), subject="address", by_address=True)
CROWD = {Status.COMPLETED: 12_000, Status.PROCESSING: 8_000, Status.CREATED: 20}


async def test_recurring_statements_use_indexes(postgres_url: str) -> None:
    """No statement reads a table of sessions, events or files from end to end."""
    async with opened(postgres_url) as database:
        await add_expired(database, 10_000)
        await add_sessions(database, CROWD)  # brings statistics up to date
        lapsed = await brought_to(database, Status.PROCESSING)
        found = {name: await explained(database, call) for name, call in recurring(database, lapsed.id).items()}
    assert {name: each.scans for name, each in found.items() if each.scans} == {}


def recurring(database: Database, session_id: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return the calls that an installation makes again and again."""
    now, due, read, write = datetime.now(UTC), database.due, database.reader, database.writer
    return {
        "list": lambda: read.of_owner("crowd", limit=20, before=None),
        "living of owners": lambda: read.unfinished_of_owners(["crowd", "other"], limit=200),
        "ended of an owner": lambda: read.finished_of_owner("crowd", created_seconds=120, limit=1000),
        "due": due.due,
        "next due": lambda: due.next_due(now),
        "expired": lambda: due.expired(limit=200),
        "long waiting": lambda: due.long_waiting(seconds=5),
        "count waiting": read.count_waiting,
        "renew": lambda: write.renew(session_id, attempt=1, lease_seconds=60),
        "seqs": lambda: read.seqs([session_id]),
        "events": lambda: read.with_events(session_id, 0),
        "erase": lambda: write.erase([session_id], skip_locked=True),
        "insert": lambda: write.insert(new_session(address_hash="x", allowance=Allowance(owner_bytes=2**40))),
        "insert with a quota": lambda: write.insert(new_session(quota=BY_OWNER)),
        "insert of an address": lambda: write.insert(new_session(address_hash="x", quota=BY_ADDRESS)),
        "bound ends": lambda: write.bound_ends(deadline_seconds=10**6, retention_seconds=10**6),
    }
