"""A further process for the contract tests: makes the calls that it is sent, on time.

One JSON object per line on standard input, one on standard output; see
:class:`tests.server.adapters.database.racers.Racers`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from server.adapters.database import engine
from server.adapters.database.changes import Change, Requeue
from server.adapters.database.database import Database, open_database
from server.system.clock import SystemClock
from testkit.running import new_session, outcome_of
from tryon.protocol.states import Event, Status


async def perform(database: Database, order: dict[str, Any]) -> Any:
    """Make one call; return whether it changed something, as JSON."""
    match order["call"]:
        case "transition":
            change = dict(order["change"])
            change["outcome"] = outcome_of(Event(change.pop("event")))
            change["from_status"] = Status(change["from_status"])
            return await database.writer.transition(Change(actor=order["name"], **change)) is not None
        case "insert":
            try:
                await database.writer.insert(new_session(id=order["session_id"]))
            except Exception as error:
                return type(error).__name__
            return True
        case "claim":
            moved = await database.writer.claim(
                order["session_id"], worker=order["name"], lease_seconds=60, actor=f"worker:{order['name']}"
            )
            return moved is not None
        case "erase":
            return bool(await database.writer.erase([order["session_id"]]))
        case "take_lease":
            return await database.chore_leases.take(order["lease"], owner=order["name"], seconds=60)
        case "count":
            return await count(database, order["session_id"], order["times"], order["name"])
    raise ValueError(order["call"])


async def count(database: Database, session_id: str, times: int, name: str) -> int:
    """Claim and requeue a session ``times`` times, against another process.

    Return the number of tries.
    """
    tries = done = 0
    while done < times:
        tries += 1
        moved = await database.writer.claim(session_id, worker=name, lease_seconds=60, actor=name)
        if moved is None:
            continue
        back = await database.writer.transition(
            Change(
                session_id=session_id,
                outcome=Requeue(reason="drain", burnt=0, enqueues=1),
                from_status=Status.PROCESSING,
                actor=name,
                attempt=moved.session.attempt,
            )
        )
        assert back is not None
        done += 1
    return tries


async def main() -> None:
    for bound in ("READ_SECONDS", "WRITE_SECONDS"):  # a busy machine is no lost server
        setattr(engine, bound, 20.0)
    databases: dict[str, Database] = {}
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if order["call"] == "close":
            await databases.pop(order["url"]).close()
            print(json.dumps(None), flush=True)
            continue
        if order["url"] not in databases:
            databases[order["url"]] = open_database(order["url"], clock=SystemClock())
            await databases[order["url"]].reader.check()
        if order["call"] == "open":
            print(json.dumps(None), flush=True)
            continue
        while time.monotonic() < order["at"]:  # spins: both must begin within microseconds
            pass
        print(json.dumps([await perform(databases[order["url"]], each) for each in order["orders"]]), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
