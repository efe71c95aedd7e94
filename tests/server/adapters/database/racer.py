"""A second process for the contract tests: does what it is told with a store of its
own, at the very same moment.

One JSON object per line on standard input, one on standard output; see
:class:`tests.server.adapters.database.test_store.Racers`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from server.adapters.database.store import Change, Store, create_engine
from testkit.running import new_session
from tryon.protocol.states import Event, GoneReason, Status


async def perform(store: Store, order: dict[str, Any]) -> Any:
    """One call of the store; whether it changed something, as JSON."""
    match order["call"]:
        case "transition":
            change = dict(order["change"])
            change["event"] = Event(change["event"])
            change["from_status"] = Status(change["from_status"])
            return await store.transition(Change(actor=order["name"], **change)) is not None
        case "insert":
            try:
                await store.insert(new_session(id=order["session_id"]))
            except Exception as error:
                return type(error).__name__
            return True
        case "claim":
            moved = await store.claim(
                order["session_id"], worker=order["name"], lease_seconds=60, actor=f"worker:{order['name']}"
            )
            return moved is not None
        case "erase":
            return bool(await store.erase({order["session_id"]: "hash"}, GoneReason.DELETED))
        case "take_lease":
            return await store.take_lease(order["lease"], owner=order["name"], seconds=60)
        case "count":
            return await count(store, order["session_id"], order["times"], order["name"])
    raise ValueError(order["call"])


async def count(store: Store, session_id: str, times: int, name: str) -> int:
    """Claim and hand back that often, against others that do the same; how often it had
    to try.
    """
    tries = done = 0
    while done < times:
        tries += 1
        moved = await store.claim(session_id, worker=name, lease_seconds=60, actor=name)
        if moved is None:
            continue
        back = await store.transition(
            Change(
                session_id=session_id,
                event=Event.REQUEUED,
                from_status=Status.PROCESSING,
                actor=name,
                attempt=moved.session.attempt,
            )
        )
        assert back is not None
        done += 1
    return tries


async def main() -> None:
    stores: dict[str, Store] = {}
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if order["call"] == "close":
            await stores.pop(order["url"]).close()
            print(json.dumps(None), flush=True)
            continue
        if order["url"] not in stores:
            stores[order["url"]] = Store(create_engine(order["url"]))
            await stores[order["url"]].check()
        if order["call"] == "open":
            print(json.dumps(None), flush=True)
            continue
        while time.monotonic() < order["at"]:  # spinning: both are to begin in the same microseconds
            pass
        print(json.dumps([await perform(stores[order["url"]], each) for each in order["orders"]]), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
