"""Two processes ask for the same change at the same moment: one of them gets it."""

from __future__ import annotations

from typing import Any

import pytest

from server.adapters.database.database import Database
from testkit.running import new_session
from tests.server.adapters.database.racers import Racers
from tests.server.adapters.database.steps import assert_whole, brought_to, trail
from tryon.protocol.states import TRANSITIONS, Event, Status

SESSIONS_A_RACE = 8

ROWS = [(before, event) for before, event in TRANSITIONS if before is not None]


@pytest.mark.parametrize(("before", "event"), ROWS, ids=[f"{before}-{event}" for before, event in ROWS])
async def test_transition_has_one_winner(database: Database, racers: Racers, before: Status, event: Event) -> None:
    """Two processes race for each transition of the table."""
    sessions = [await brought_to(database, before) for _ in range(SESSIONS_A_RACE)]
    calls = [
        {
            "call": "transition",
            "change": {"session_id": session.id, "event": event, "from_status": before, "seq": session.seq},
        }
        for session in sessions
    ]
    first, second = await racers.race(calls, calls)
    for session, one, other in zip(sessions, first, second, strict=True):
        assert one + other == 1, f"{one=} {other=}"
        events = await trail(database, session.id)
        assert_whole(events)
        assert len(events) == session.seq + 1
        assert events[-1].actor == ("racer-0" if one else "racer-1")


async def test_insert_of_same_id_has_one_winner(database: Database, racers: Racers) -> None:
    """Two processes insert a session under the same id."""
    new_sessions = [new_session() for _ in range(SESSIONS_A_RACE)]
    calls = [{"call": "insert", "session_id": new.id} for new in new_sessions]
    first, second = await racers.race(calls, calls)
    for new, one, other in zip(new_sessions, first, second, strict=True):
        assert (one is True) + (other is True) == 1
        assert_whole(await trail(database, new.id))
        assert len(await trail(database, new.id)) == 1


@pytest.mark.parametrize("rival", [Event.FAILED, Event.CANCELLED, Event.REQUEUED])
async def test_rival_outcomes_have_one_winner(database: Database, racers: Racers, rival: Event) -> None:
    """One process completes a session while another ends its attempt differently."""
    sessions = [await brought_to(database, Status.PROCESSING) for _ in range(SESSIONS_A_RACE)]

    def calls(event: Event) -> list[dict[str, Any]]:
        return [
            {
                "call": "transition",
                "change": {"session_id": s.id, "event": event, "from_status": "processing", "attempt": 1},
            }
            for s in sessions
        ]

    first, second = await racers.race(calls(Event.COMPLETED), calls(rival))
    for session, one, other in zip(sessions, first, second, strict=True):
        assert one + other == 1
        events = await trail(database, session.id)
        assert_whole(events)
        assert events[-1].event is (Event.COMPLETED if one else rival)


async def test_claim_has_one_winner(database: Database, racers: Racers) -> None:
    """Two workers claim the same sessions."""
    sessions = [await brought_to(database, Status.CREATED) for _ in range(SESSIONS_A_RACE)]
    first, second = await racers.race_each(sessions, call="claim")
    for session, one, other in zip(sessions, first, second, strict=True):
        assert one + other == 1
        now = await database.reader.get(session.id)
        assert now is not None
        assert (now.attempt, now.lease_owner) == (1, "racer-0" if one else "racer-1")


async def test_concurrent_writers_lose_no_update(database: Database, racers: Racers) -> None:
    """Two processes claim and requeue one session without a pause."""
    session = await brought_to(database, Status.CREATED)
    call = {"call": "count", "session_id": session.id, "times": 100}
    await racers.race([call], [call])
    now = await database.reader.get(session.id)
    assert now is not None
    assert (now.attempt, now.seq, now.status) == (200, 401, Status.CREATED)
    events = await trail(database, session.id)
    assert_whole(events)
    assert len(events) == 401
    assert {event.actor for event in events} == {"client", "racer-0", "racer-1"}


async def test_erase_has_one_winner(database: Database, racers: Racers) -> None:
    """Two processes erase the same sessions: each row goes to one of them."""
    sessions = [await brought_to(database, Status.PROCESSING) for _ in range(SESSIONS_A_RACE)]
    first, second = await racers.race_each(sessions, call="erase")
    assert [one + other for one, other in zip(first, second, strict=True)] == [1] * SESSIONS_A_RACE
