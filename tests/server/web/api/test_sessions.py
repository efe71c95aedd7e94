"""Ownership of the session verbs, the list of sessions, and the history."""

from __future__ import annotations

import base64

import httpx
import pytest
from sqlalchemy import text

from server.domain.tokens import new_token
from testkit.running import StartWeb, Web
from testkit.values import new_session_id
from tests.server.web.api.calls import bearer, do, failed, listed
from tryon.protocol.paths import SESSIONS


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete", "history"])
async def test_verb_is_404_for_foreign_session(web: Web, verb: str) -> None:
    """Foreign, unknown and malformed ids and a missing token get the same 404."""
    session, token = await failed(web)
    before = await web.database.reader.get(session.id)
    unknown = await do(web, verb, new_session_id(), token)
    foreign = await do(web, verb, session.id, new_token())
    without = await web.client.request(foreign.request.method, foreign.request.url.path)
    malformed = await do(web, verb, "not-an-id", token)
    for answer in (unknown, foreign, without, malformed):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert foreign.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}
    assert await web.database.reader.get(session.id) == before


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete"])
async def test_ticket_is_read_only(web: Web, verb: str) -> None:
    """With a ticket a session can be read, but not cancelled, retried or deleted."""
    session, token = await failed(web)
    ticket = (await do(web, "get", session.id, token)).json()["links"]["ws"].partition("?")[2]
    path = f"{SESSIONS}/{session.id}"
    assert (await web.client.get(f"{path}?{ticket}")).status_code == 200
    method, path = ("DELETE", path) if verb == "delete" else ("POST", f"{path}/{verb}")
    answer = await web.client.request(method, f"{path}?{ticket}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert await web.database.reader.get(session.id) is not None


async def test_list_requires_token(web: Web) -> None:
    """A ticket or nothing gets 401, and so does a malformed token."""
    session, token = await web.submit()
    ticket = (await do(web, "get", session.id, token)).json()["links"]["ws"].partition("?")[2]
    for query in ("", f"?{ticket}"):
        answer = await web.client.get(SESSIONS + query)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_required")
    answer = await web.client.get(SESSIONS, headers=bearer("short"))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


async def test_list_shows_own_sessions_newest_first(web: Web) -> None:
    """Other owners' sessions are missing; each entry has the fields of a session."""
    token = new_token()
    mine = [(await web.submit(token))[0].id for _ in range(3)]
    await web.submit()
    page = await listed(web, token)
    assert page["next_cursor"] is None
    assert sorted(page["sessions"], key=lambda s: (s["created_at"], s["session_id"]), reverse=True) == page["sessions"]
    assert {session["session_id"] for session in page["sessions"]} == set(mine)
    single = (await do(web, "get", mine[0], token)).json()
    assert set(page["sessions"][0]) == set(single)
    assert await listed(web, new_token()) == {"sessions": [], "next_cursor": None}


async def test_pages_join_while_sessions_arrive(start_web: StartWeb, database_url: str) -> None:
    """All pages together hold each session once; newer sessions move nothing."""
    web = await start_web()
    token = new_token()
    mine = {(await web.submit(token))[0].id for _ in range(7)}
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await listed(web, token, limit=2, **cursor)
        assert len(page["sessions"]) <= 2
        seen += [session["session_id"] for session in page["sessions"]]
        await web.submit(token)  # newer than everything that this reader will still see
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(seen) == len(set(seen))
    assert set(seen) == mine


async def test_pages_join_within_one_moment(web: Web) -> None:
    """Sessions with equal creation times are paged by their ids."""
    token = new_token()
    mine = {(await web.submit(token))[0].id for _ in range(5)}
    async with web.database.connections.engine.begin() as connection:
        await connection.execute(
            text("UPDATE tryon_sessions SET created_at = (SELECT min(created_at) FROM tryon_sessions)")
        )
    first = await listed(web, token, limit=3)
    second = await listed(web, token, limit=3, cursor=first["next_cursor"])
    ids = [session["session_id"] for session in first["sessions"] + second["sessions"]]
    assert len(ids) == 5
    assert set(ids) == mine


async def test_pages_join_after_delete(web: Web) -> None:
    """The next page is complete even if the cursor's own session was deleted."""
    token = new_token()
    for _ in range(4):
        await web.submit(token)
    everything = [session["session_id"] for session in (await listed(web, token))["sessions"]]
    first = await listed(web, token, limit=2)
    await do(web, "delete", everything[1], token)  # the very one that the cursor names
    second = await listed(web, token, limit=2, cursor=first["next_cursor"])
    assert [session["session_id"] for session in second["sessions"]] == everything[2:]


SOME_ID = "01a203d1-001e-708f-adb5-0b0ec30e9306"  # constant: xdist compares the names of tests


@pytest.mark.parametrize(
    "cursor",
    ["x", "", "!!", "é", "A" * 5000, base64.urlsafe_b64encode(b"1.nobody").decode(),
     base64.urlsafe_b64encode(f"{'9' * 18}.{SOME_ID}".encode()).decode(),
     base64.urlsafe_b64encode(f"-1e9.{SOME_ID}".encode()).decode(),
     base64.urlsafe_b64encode(f"{'9' * 40}.{SOME_ID}".encode()).decode()],
)  # fmt: skip
async def test_list_refuses_forged_cursor(web: Web, cursor: str) -> None:
    """Cursors that were not issued here get 400."""
    answer = await web.client.get(SESSIONS, params={"cursor": cursor}, headers=bearer(new_token()))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.5", "９", "9" * 5000])
async def test_list_limits_page_size(web: Web, limit: str) -> None:
    """Anything but a number from 1 to 100 gets 400."""
    answer = await web.client.get(SESSIONS, params={"limit": limit}, headers=bearer(new_token()))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_history_holds_every_transition(web: Web) -> None:
    """The links in it work, and the times rise."""
    session, token = await web.submit()
    assert await web.services.sessions.claims.requeue(await web.begin(session), burnt=True, reason="lease_lost")
    await web.complete(await web.begin(session))
    events = (await do(web, "history", session.id, token)).json()["events"]
    assert [(e["seq"], e["event"], e["from"], e["status"], e["attempt"]) for e in events] == [
        (1, "created", None, "created", 0),
        (2, "processing", "created", "processing", 1),
        (3, "requeued", "processing", "created", 1),
        (4, "processing", "created", "processing", 2),
        (5, "completed", "processing", "completed", 2),
    ]
    assert [set(event) for event in events] == [{"seq", "event", "from", "status", "at", "attempt", "data"}] * 5
    assert events[2]["data"] == {"reason": "lease_lost"}
    assert sorted(event["at"] for event in events) == [event["at"] for event in events]
    for link in (events[0]["data"]["input"], events[4]["data"]["output"]):
        assert (await web.client.get(link)).status_code == 200


async def test_history_links_expire_with_ticket(web: Web) -> None:
    """A link signed for a ticket is valid no longer than the ticket."""
    session, token = await web.submit()
    links = (await do(web, "get", session.id, token)).json()["links"]
    ticket = links["ws"].partition("ticket=")[2]
    answer = await web.client.get(f"{SESSIONS}/{session.id}/history?ticket={ticket}")
    expires = int(httpx.URL(answer.json()["events"][0]["data"]["input"]).params["expires"])
    assert expires <= int(ticket.split(".")[1])


async def test_history_holds_error_of_failure(web: Web) -> None:
    """The last event of a failed session has the error's code."""
    session, token = await failed(web)
    last = (await do(web, "history", session.id, token)).json()["events"][-1]
    assert (last["event"], last["data"]["error"]["code"]) == ("failed", "mock_failure")
