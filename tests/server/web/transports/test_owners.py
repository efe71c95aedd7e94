"""All sessions of an owner over one socket: snapshots, frames, ends, refusals."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from server.domain.owner_cursor import short_id
from server.domain.session import Session
from server.domain.tokens import new_token, token_hash
from server.web.serving.handshake import Handshake
from testkit.running import Client, StartWeb, Web, until
from testkit.values import new_session_id

BOTH_PATHS = True


class OwnerClient(Client):
    """A page that follows all sessions of its owner."""

    def stories(self) -> dict[str, list[int]]:
        """Return the seqs of each session in the order in which the client got them."""
        seqs: defaultdict[str, list[int]] = defaultdict(list)
        for frame in self.frames:
            if frame["type"] == "snapshot":
                seqs[frame["session"]["session_id"]] += [event["seq"] for event in frame["missed"]] or [
                    frame["session"]["seq"]
                ]
            elif frame["type"] == "event":
                seqs[frame["session_id"]].append(frame["seq"])
        return dict(seqs)

    @property
    def ends(self) -> list[tuple[str, str]]:
        return [(frame["session_id"], frame["reason"]) for frame in self.frames if frame["type"] == "ended"]

    @property
    def shown(self) -> list[str]:
        return [frame["session"]["session_id"] for frame in self.frames if frame["type"] == "snapshot"]

    async def until_ended(self, count: int) -> None:
        while len(self.ends) < count:
            await self.next("ended")


@contextlib.asynccontextmanager
async def follow_all(web: Web, token: str | None, query: str = "", **options: Any) -> AsyncIterator[OwnerClient]:
    if token is not None:
        options["subprotocols"] = ["tryon.v1", f"tryon.bearer.{token}"]
    options = {"proxy": None, "ping_interval": None, "compression": None, "close_timeout": 2} | options
    async with connect(f"ws://127.0.0.1:{web.port}/api/tryon/ws{query}", **options) as connection:
        yield OwnerClient(connection)


async def submitted(web: Web, count: int, token: str | None = None) -> tuple[list[Session], str]:
    token = token or new_token()
    return [(await web.submit(token))[0] for _ in range(count)], token


async def test_owner_socket_shows_each_living_session(web: Web) -> None:
    """A snapshot each, then `synced`; of ended and foreign ones nothing."""
    sessions, token = await submitted(web, 3)
    await web.complete(await web.begin(sessions[0]))
    await web.submit()
    async with follow_all(web, token) as client:
        synced = await client.next("synced")
        assert client.shown == sorted([sessions[1].id, sessions[2].id])
        assert (synced["sessions"], synced["more"]) == (2, False)
        assert client.connection.subprotocol == "tryon.v1"
        assert client.frames[0]["session"]["links"]["ws"], "the owner's own links"


async def test_owner_socket_without_sessions_is_synced_at_once(web: Web) -> None:
    """The first frame says that there are none, and how often pings come."""
    async with follow_all(web, new_token()) as client:
        assert await client.next() == {"type": "synced", "sessions": 0, "more": False, "ping_seconds": 25}


async def test_owner_socket_follows_sessions_to_their_ends(web: Web) -> None:
    """Each transition once and in order, also of a session that begins meanwhile."""
    (old,), token = await submitted(web, 1)
    async with follow_all(web, token) as client:
        await client.next("synced")
        new, _ = await web.submit(token)
        snapshot = await client.next("snapshot")
        assert snapshot["session"]["session_id"] == new.id
        assert [event["event"] for event in snapshot["missed"]] == ["created"]
        for session in (new, old):
            await web.complete(await web.begin(session))
        await client.until_ended(2)
        assert client.stories() == {old.id: [1, 2, 3], new.id: [1, 2, 3]}
        assert client.ends == [(new.id, "completed"), (old.id, "completed")]
        assert "bye" not in client.types
        await client.send({"type": "ping"})
        await client.next("pong")


async def test_owner_socket_learns_of_a_deletion(web: Web) -> None:
    """The session is `ended` with the reason; the connection goes on."""
    (session, other), token = await submitted(web, 2)
    async with follow_all(web, token) as client:
        await client.next("synced")
        answer = await web.client.delete(
            f"/api/tryon/sessions/{session.id}", headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 200
        await client.until_ended(1)
        assert client.ends == [(session.id, "deleted")]
        await web.complete(await web.begin(other))
        await client.until_ended(2)


async def test_resume_shows_what_happened_meanwhile(web: Web) -> None:
    """Missed events, ended sessions and new ones; of what was seen, nothing twice."""
    (runs, ends, erased, seen), token = await submitted(web, 4)
    await web.complete(await web.begin(seen))
    claim = await web.begin(runs)
    since = {runs.id: 1, ends.id: 1, erased.id: 1, seen.id: 3}
    await web.complete(await web.begin(ends))
    await web.client.delete(f"/api/tryon/sessions/{erased.id}", headers={"Authorization": f"Bearer {token}"})
    new, _ = await web.submit(token)
    cursor = "~".join(f"{short_id(name)}.{seq}" for name, seq in since.items())
    async with follow_all(web, token, f"?since={cursor}") as client:
        await client.next("synced")
        await web.complete(claim)
        await client.until_ended(4)
        assert client.stories() == {runs.id: [2, 3], ends.id: [2, 3], new.id: [1]}
        assert sorted(client.ends) == sorted(
            [(ends.id, "completed"), (erased.id, "deleted"), (seen.id, "completed"), (runs.id, "completed")]
        )


async def test_sync_shows_all_again_with_what_was_missed(web: Web) -> None:
    """A client that woke up names what it has seen; the others come from the start."""
    (one, two), token = await submitted(web, 2)
    async with follow_all(web, token) as client:
        await client.next("synced")
        claim = await web.begin(one)
        await client.next("event")
        client.frames.clear()
        await client.send({"type": "sync", "since": {one.id: 2}})
        await client.next("synced")
        assert client.types == ["snapshot", "snapshot", "synced"]
        assert client.stories() == {one.id: [2], two.id: [1]}
        assert [len(frame["missed"]) for frame in client.frames[:2]] == [0, 1]
        await web.complete(claim)
        await client.until_ended(1)
        assert client.stories()[one.id] == [2, 3]


async def test_sync_may_name_two_hundred_sessions(web: Web, ws: type[asyncio.Protocol]) -> None:
    """It is larger than any other message; uvicorn's own sockets keep their 4 KiB."""
    (session,), token = await submitted(web, 1)
    async with follow_all(web, token) as client:
        await client.next("synced")
        others = 199 if ws is Handshake else 60
        await client.send({"type": "sync", "since": {session.id: 1} | {new_session_id(): 1 for _ in range(others)}})
        await client.next("synced")
        assert client.shown == [session.id, session.id]
        assert len(client.ends) == others


@pytest.mark.parametrize("query", ["?since=0", "?since=", "?since=nonsense", f"?since={'x' * 22}.1~.~.1"])
async def test_malformed_cursor_means_that_all_was_missed(web: Web, query: str) -> None:
    """As on the socket of one session: too much rather than too little."""
    (session,), token = await submitted(web, 1)
    await web.begin(session)
    async with follow_all(web, token, query) as client:
        await client.next("synced")
        assert client.stories() == {session.id: [1, 2]}


async def test_cursor_opens_no_foreign_session(web: Web) -> None:
    """A foreign id and an unknown one get the same answer: ended, as if deleted."""
    foreign, _ = await web.submit()
    unknown = new_session_id()
    async with follow_all(web, new_token(), f"?since={foreign.id}.1~{unknown}.1") as client:
        await client.next("synced")
        assert client.types == ["ended", "ended", "synced"]
        assert {reason for _, reason in client.ends} == {"deleted"}
        await web.begin(foreign)
        await client.send({"type": "ping"})
        await client.next("pong")
        assert "event" not in client.types


@pytest.mark.parametrize(("how", "code"), [("none", "token_required"), ("malformed", "invalid_token")])
async def test_owner_socket_needs_a_token(web: Web, how: str, code: str) -> None:
    """A ticket is for one session."""
    session, _ = await web.submit()
    ticket = web.services.signer.ticket(session.id, expires=int(web.database.clock.now()) + 60)
    async with follow_all(web, None if how == "none" else "short", f"?ticket={ticket}") as client:
        assert await client.rest() == 4501
    assert [frame.get("code") for frame in client.frames] == [code, 4501]


async def test_foreign_origin_may_not_follow_an_owner(web: Web) -> None:
    """It is refused before the handshake."""
    with pytest.raises(InvalidStatus) as refusal:
        async with follow_all(web, new_token(), origin="https://elsewhere.example"):
            pass
    assert refusal.value.response.status_code == 403


async def test_owner_has_a_limited_number_of_sockets(start_web: StartWeb) -> None:
    """One more is refused, and admitted once another has left."""
    web = await start_web(sockets_per_owner=1)
    token = new_token()
    async with follow_all(web, token) as first:
        await first.next("synced")
        async with follow_all(web, token) as second:
            assert await second.rest() == 4029
        async with follow_all(web, new_token()) as other:
            await other.next("synced")
    await until(lambda: web.hub.owners.count(token_hash(token)) == 0)
    async with follow_all(web, token) as again:
        await again.next("synced")


async def test_session_in_another_process_appears_once(start_web: StartWeb) -> None:
    """Its snapshot comes by the owner's channel, its transitions by its own."""
    web, other = await start_web(), await start_web()
    token = new_token()
    async with follow_all(web, token) as client:
        await client.next("synced")
        session, _ = await other.submit(token)
        await client.next("snapshot")
        web.hub.recovery._sweep_wanted.set()  # which finds the same session
        await other.complete(await other.begin(session))
        await client.until_ended(1)
        await client.send({"type": "ping"})
        await client.next("pong")
        assert client.shown == [session.id]
        assert client.stories() == {session.id: [1, 2, 3]}


async def test_nothing_is_left_of_an_owner_socket(web: Web) -> None:
    """Followers, subscriptions and the connection's place are given back."""
    _, token = await submitted(web, 3)
    async with follow_all(web, token) as client:
        await client.next("synced")
        assert web.hub.followers == 4
    await until(lambda: web.hub.followers == 0)
    assert not web.hub.registry.by_channel
    assert not web.hub.owners.lines()


async def test_drain_ends_an_owner_socket_once(web: Web) -> None:
    """One `bye` for the connection, however many sessions it follows."""
    _, token = await submitted(web, 3)
    async with follow_all(web, token) as client:
        await client.next("synced")
        assert web.hub.drain() == 1
        assert await client.rest() == 4000
        assert client.types[-1] == "bye"
        assert client.types.count("bye") == 1
        assert client.frames[-1]["reconnect"] is True
