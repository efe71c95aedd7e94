"""``tryon.v1`` over real sockets: what a client sees, from the snapshot to the close
code.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket as sockets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from server.config.settings import Config
from server.domain.bus_message import PROGRESS, bus_message
from server.domain.tokens import Signer, new_token
from server.web.serving.handshake import Handshake
from server.web.transports.connection_limits import ConnectionLimits
from server.web.transports.inbound import Answer, InboundState
from server.web.transports.wire import MAX_AFTER_CLOSE_BYTES, WireSocket
from server.web.transports.ws_frames import CLOSE, CONTINUATION, MAX_FRAMES, PING, PONG, TEXT, parse_frames
from testkit.fixtures import StartStack
from testkit.running import Client, Web, running_web, until
from testkit.values import new_session_id
from tests.server.web.conftest import StartWeb
from tests.server.web.transports.test_ws_frames import masked
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import GoneReason


@pytest.fixture(params=[Handshake, WebSocketsSansIOProtocol], ids=["detached", "asgi"])
def ws(request: pytest.FixtureRequest) -> type[asyncio.Protocol]:
    """Every story is told over both paths: detached, and by plain ASGI messages."""
    protocol: type[asyncio.Protocol] = request.param
    return protocol


WRONG = "wrong-" + "w" * 40


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 120), (200, 30, 60)).save(buffer, "PNG")
    return buffer.getvalue()


async def refused(web: Web, session_id: str, token: str | None = None, query: str = "", **options: Any) -> Client:
    """A client that was refused in the way a person can read: accepted, told why,
    closed.
    """
    async with web.follow(session_id, token, query, **options) as client:
        await client.rest()
    assert client.types == ["error", "bye"]
    assert client.frames[1]["code"] == client.connection.close_code
    assert client.frames[1]["reconnect"] is (client.frames[1]["code"] < 4500)
    return client


# -- the story -------------------------------------------------------------------------


async def test_a_client_sees_the_session_from_its_snapshot_to_the_end(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        snapshot = await client.next()
        assert snapshot["type"] == "snapshot"
        assert (snapshot["session"]["session_id"], snapshot["session"]["status"]) == (session.id, "created")
        assert (snapshot["missed"], snapshot["ping_seconds"]) == ([], 25)
        claim = await web.begin(session)
        event = await client.next("event")
        assert event == {
            "type": "event",
            "session_id": session.id,
            "seq": 2,
            "event": "processing",
            "from": "created",
            "status": "processing",
            "terminal": False,
            "at": event["at"],
            "data": {"attempt": 1},
        }
        await web.services.sessions.claims.report(claim, 0.4, "rendering", 1.8)
        progress = await client.next("progress")
        assert (progress["seq"], progress["progress"], progress["stage"]) == (2, 0.4, "rendering")
        await web.complete(claim)
        end = await client.next("event")
        assert (end["seq"], end["event"], end["from"], end["terminal"]) == (3, "completed", "processing", True)
        assert (await web.client.get(end["data"]["output"])).content == b"\xff\xd8\xff\xe0 result"
        assert await client.next() == {
            "type": "bye",
            "code": 1000,
            "reason": "completed",
            "reconnect": False,
            "retry_after_ms": None,
        }
        assert await client.rest() == 1000


async def test_a_failure_is_told_with_its_reason(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")  # else it may be read after the end, and the event is in it
        claim = await web.begin(session)
        await web.services.sessions.claims.fail(claim, "mock_failure")
        assert await client.rest() == 1000
        event = next(frame for frame in client.frames if frame.get("event") == "failed")
        assert event["data"]["error"]["code"] == "mock_failure"
        assert event["data"]["error"]["retryable"] is True
        assert client.frames[-1]["reason"] == "failed"


@pytest.mark.parametrize(
    ("query", "missed"), [("", []), ("?since=0", [1, 2, 3]), ("?since=1", [2, 3]), ("?since=3", [])]
)
async def test_joining_after_the_end_is_snapshot_bye_1000(web: Web, query: str, missed: list[int]) -> None:
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    async with web.follow(session.id, token, query) as client:
        assert await client.rest() == 1000
    assert client.types == ["snapshot", "bye"]
    assert client.frames[0]["session"]["status"] == "completed"
    assert [event["seq"] for event in client.frames[0]["missed"]] == missed
    assert all(event["type"] == "event" and event["session_id"] == session.id for event in client.frames[0]["missed"])


async def test_since_brings_what_was_missed_in_order_and_then_the_news(web: Web) -> None:
    session, token = await web.submit()
    claim = await web.begin(session)
    await web.services.sessions.claims.requeue(claim, burnt=False, reason="drained")
    async with web.follow(session.id, token, "?since=1") as client:
        snapshot = await client.next()
        assert [event["seq"] for event in snapshot["missed"]] == [2, 3]
        assert [event["event"] for event in snapshot["missed"]] == ["processing", "requeued"]
        await web.complete(await web.begin(session))
        await client.rest()
        assert client.story() == [3, 4, 5]


@pytest.mark.parametrize("since", ["-1", "abc", "", "1e3", "9" * 30, "٣", "4294967296"])
async def test_a_since_that_makes_no_sense_harms_nobody(web: Web, since: str) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token, f"?since={since}") as client:
        assert (await client.next())["type"] == "snapshot"


async def test_a_late_joiner_sees_the_progress_so_far(web: Web) -> None:
    session, token = await web.submit()
    claim = await web.begin(session)
    async with web.follow(session.id, token) as early:
        await early.next("snapshot")
        await web.services.sessions.claims.report(claim, 0.8, "rendering", 0.5)
        await early.next("progress")
        async with web.follow(session.id, token) as late:
            view = (await late.next())["session"]
            assert (view["progress"], view["stage"]) == (0.8, "rendering")


async def test_every_tab_sees_the_same_bytes(web: Web) -> None:
    session, token = await web.submit()
    async with contextlib.AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(web.follow(session.id, token)) for _ in range(5)]
        for tab in tabs:
            await tab.next("snapshot")
        await web.complete(await web.begin(session))
        for tab in tabs:
            await tab.rest()
        events = [[frame for frame in tab.frames if frame["type"] == "event"] for tab in tabs]
        assert len(events[0]) == 2
        assert all(each == events[0] for each in events)


async def test_sessions_do_not_see_each_other(web: Web) -> None:
    (one, token), (other, _) = await web.submit(), await web.submit()
    async with web.follow(one.id, token) as client:
        await client.next("snapshot")
        await web.complete(await web.begin(other))
        await web.complete(await web.begin(one))
        await client.rest()
        assert {frame["session_id"] for frame in client.frames if "session_id" in frame} == {one.id}


async def test_the_first_frame_is_the_snapshot_even_when_the_database_is_slow_and_pings_are_due(
    start_web: StartWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = await start_web(ping_seconds=0.05)
    session, token = await web.submit()
    look, gate = web.services.sessions.reads.read, asyncio.Event()

    async def slow_look(*args: Any, **options: Any) -> Any:
        await gate.wait()
        return await look(*args, **options)

    monkeypatch.setattr(type(web.services.sessions.reads), "read", staticmethod(slow_look))

    async def open_late() -> None:
        await until(lambda: web.hub.followers == 1)
        due = time.monotonic() + 3 * web.config.ping_seconds
        await until(lambda: time.monotonic() > due)
        gate.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(open_late())
        async with web.follow(session.id, token) as client:
            assert (await client.next())["type"] == "snapshot"


async def slow_look(web: Web, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Nobody is shown anything before the event is set."""
    look, gate = web.services.sessions.reads.read, asyncio.Event()

    async def wait(*args: Any, **options: Any) -> Any:
        await gate.wait()
        return await look(*args, **options)

    monkeypatch.setattr(type(web.services.sessions.reads), "read", staticmethod(wait))
    return gate


async def test_who_is_let_in_while_the_server_begins_to_stop_is_told_so(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, token = await web.submit()
    gate = await slow_look(web, monkeypatch)

    async def stop_then_answer() -> None:
        await until(lambda: web.hub.followers == 1)
        web.hub.drain()
        gate.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(stop_then_answer())
        async with web.follow(session.id, token) as client:
            assert await client.rest(5) == 4000
            assert client.frames[-1]["retry_after_ms"] >= 1500
    await until(lambda: web.hub.followers == 0)


async def test_who_goes_away_while_it_is_looked_up_leaves_nothing(
    web: Web, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    if ws is not Handshake:
        pytest.skip("there it is answered first")
    session, token = await web.submit()
    gate = await slow_look(web, monkeypatch)
    taken: Counter[str] = Counter()
    take, give_back = ConnectionLimits.take, ConnectionLimits.give_back
    monkeypatch.setattr(
        ConnectionLimits, "take", lambda places, address: (taken.update([address]), take(places, address))
    )
    monkeypatch.setattr(
        ConnectionLimits, "give_back", lambda places, address: (taken.subtract([address]), give_back(places, address))
    )
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(upgrade(session.id, token))
    await until(lambda: web.hub.followers == 1)
    assert taken.total() == 1
    writer.transport.abort()
    gate.set()
    await until(lambda: web.hub.followers == 0)
    assert taken.total() == 0


async def test_a_failure_after_the_handshake_is_4001(
    web: Web, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    if ws is not Handshake:
        pytest.skip("there it is the server's own 1011")

    def broken(*_: Any) -> None:
        raise RuntimeError("no snapshot")

    session, token = await web.submit()
    monkeypatch.setattr("server.web.transports.joining.Joining.show", broken)
    async with web.follow(session.id, token) as client:
        assert await client.rest(5) == 4001
    await until(lambda: web.hub.followers == 0)


# -- credentials -----------------------------------------------------------------------


async def test_the_bearer_subprotocol_opens_and_only_tryon_v1_is_echoed(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        assert (await client.next())["type"] == "snapshot"
        assert client.connection.subprotocol == "tryon.v1"


@pytest.mark.parametrize("header", ["Authorization", "X-Client-Token"])
async def test_a_token_in_a_header_opens(web: Web, header: str) -> None:
    session, token = await web.submit()
    value = f"Bearer {token}" if header == "Authorization" else token
    async with web.follow(session.id, additional_headers={header: value}) as client:
        assert (await client.next())["type"] == "snapshot"
        assert client.connection.subprotocol is None


async def test_the_link_of_the_session_opens_as_it_is(web: Web) -> None:
    session, token = await web.submit()
    answer = await web.client.get(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
    link = answer.json()["links"]["ws"]
    assert token not in link
    async with web.follow(session.id, query=link.partition("/ws")[2]) as client:
        view = (await client.next())["session"]
        assert view["session_id"] == session.id
        assert "ticket" not in view["links"]["ws"] + view["links"]["events"], "a ticket begets no ticket"


@pytest.mark.parametrize("how", ["wrong", "none", "another session's owner", "unknown id", "no id at all"])
async def test_whatever_is_wrong_with_id_or_owner_looks_the_same(web: Web, how: str) -> None:
    session, token = await web.submit()
    _, another = await web.submit()
    client = await refused(
        web,
        {"unknown id": new_session_id(), "no id at all": "garbage"}.get(how, session.id),
        {"wrong": WRONG, "none": None, "another session's owner": another}.get(how, token),
    )
    assert client.frames == [
        {"type": "error", "code": "not_found", "message": "There is nothing here, or it is not yours."},
        {"type": "bye", "code": 4504, "reason": "not_found", "reconnect": False, "retry_after_ms": None},
    ]


async def test_who_speaks_before_being_let_in_is_told_nothing(
    web: Web, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = await web.submit()
    look, gate = web.services.sessions.reads.read, asyncio.Event()

    async def slow_look(*args: Any, **options: Any) -> Any:
        await gate.wait()
        return await look(*args, **options)

    monkeypatch.setattr(type(web.services.sessions.reads), "read", staticmethod(slow_look))
    if ws is Handshake:  # it is let in before it is answered: it can only speak with its request
        early = masked(TEXT, b'{"type":"sync","since":0}') + PING_TEXT
        async with asyncio.TaskGroup() as group:
            group.create_task(until_then(lambda: web.hub.followers == 1, gate.set))
            async with raw(web, session.id, WRONG, early) as hasty:
                told = [(await hasty.frame())[1] for _ in range(2)]
                assert [json.loads(frame)["type"] for frame in told] == ["error", "bye"]
                assert await hasty.until_closed() == 4504
        return
    async with web.follow(session.id, WRONG) as client:
        await client.send({"type": "sync", "since": 0})
        await client.send({"type": "ping"})
        gate.set()
        assert await client.rest() == 4504
        assert client.types == ["error", "bye"]


async def until_then(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    await until(condition)
    act()


@pytest.mark.parametrize("token", ["short", "x" * 129, "x" * 22 + "!"])
async def test_a_malformed_token_is_4501(web: Web, token: str) -> None:
    session, _ = await web.submit()
    client = await refused(web, session.id, additional_headers={"Authorization": f"Bearer {token}"})
    assert (client.frames[0]["code"], client.connection.close_code) == ("invalid_token", 4501)


@pytest.mark.parametrize("how", ["expired", "forged", "of another session", "by another key", "garbage"])
async def test_a_ticket_that_is_not_good_is_4501(web: Web, how: str) -> None:
    session, _ = await web.submit()
    now = int(web.database.clock.now())
    signer = web.services.signer
    ticket = {
        "expired": signer.ticket(session.id, expires=now - 1),
        "forged": signer.ticket(session.id, expires=now + 60)[:-4] + "AAAA",
        "of another session": signer.ticket(new_session_id(), expires=now + 60),
        "by another key": Signer(["another-key-" * 4]).ticket(session.id, expires=now + 60),
        "garbage": "a.b.c.d",
    }[how]
    client = await refused(web, session.id, query=f"?ticket={ticket}")
    assert (client.frames[0]["code"], client.connection.close_code) == ("invalid_ticket", 4501)


async def test_an_open_socket_outlives_its_ticket(start_web: StartWeb) -> None:
    web = await start_web(ticket_seconds=1)
    session, _ = await web.submit()
    expires = int(web.database.clock.now()) + 1
    ticket = web.services.signer.ticket(session.id, expires=expires)
    async with web.follow(session.id, query=f"?ticket={ticket}") as client:
        await client.next("snapshot")
        await until(lambda: web.database.clock.now() > expires)
        await web.complete(await web.begin(session))
        assert await client.rest() == 1000
        assert client.story() == [1, 2, 3]


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null", "http://[", ""])
async def test_a_foreign_origin_is_refused_before_the_handshake(web: Web, origin: str) -> None:
    session, token = await web.submit()
    with pytest.raises(InvalidStatus) as refusal:
        async with web.follow(session.id, token, additional_headers={"Origin": origin}):
            pass
    assert_denied(refusal.value, 403, "bad_request")


def assert_denied(refusal: InvalidStatus, status: int, code: str) -> None:
    """Refused before the handshake, and told why like any other request."""
    answer = refusal.response
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.body or b"")
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize("path", ["/ws", "/api/tryon/sessions", "/api/tryon/sessions/x/y/ws"])
async def test_a_socket_where_there_is_none_is_404(web: Web, path: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(f"ws://127.0.0.1:{web.port}{path}", proxy=None):
            pass
    assert_denied(refusal.value, 404, "not_found")


async def test_a_failure_before_the_handshake_is_500(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> bool:
        raise ValueError("a bug")

    monkeypatch.setattr("server.web.transports.websocket.origin_allowed", fail)
    with pytest.raises(InvalidStatus) as refusal:
        async with web.follow(new_session_id()):
            pass
    assert_denied(refusal.value, 500, "internal_error")


async def test_a_handshake_has_its_request_id(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token, additional_headers={"X-Request-ID": "mine-1"}) as client:
        assert client.connection.response is not None
        assert client.connection.response.headers["X-Request-ID"] == "mine-1"


class Plain(WebSocketsSansIOProtocol):
    """A server that offers no ASGI extension at all; they are optional."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        del self.scope["extensions"]


async def test_a_server_without_extensions_will_do(config: Callable[..., Config]) -> None:
    async with running_web(config(), ws=Plain) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            assert (await client.next())["type"] == "snapshot"
        with pytest.raises(InvalidStatus) as refusal:
            async with web.follow(session.id, token, additional_headers={"Origin": "https://evil.example"}):
                pass
        assert refusal.value.response.status_code == 403


@pytest.mark.parametrize("id", ["garbage", "x" * 2000, "019A0000-0000-7000-8000-000000000000"])
async def test_what_cannot_be_an_id_is_not_followed(web: Web, monkeypatch: pytest.MonkeyPatch, id: str) -> None:
    joined: list[Any] = []
    monkeypatch.setattr("server.web.push.hub.Hub.join", lambda self, follower, **options: joined.append(follower))
    assert (await refused(web, id, WRONG)).connection.close_code == 4504
    assert joined == []


async def test_localhost_the_same_origin_and_no_origin_may_connect(web: Web) -> None:
    session, token = await web.submit()
    for origin in (
        "http://localhost:5173",
        "https://localhost",
        "http://[::1]:3000",
        f"http://127.0.0.1:{web.port}",
        None,
    ):
        headers = {} if origin is None else {"Origin": origin}
        async with web.follow(session.id, token, additional_headers=headers) as client:
            assert (await client.next())["type"] == "snapshot"


async def test_configured_origins_replace_the_localhost_rule(start_web: StartWeb) -> None:
    web = await start_web(origins=("https://shop.example",))
    session, token = await web.submit()
    for origin in ("https://shop.example", f"http://127.0.0.1:{web.port}"):
        async with web.follow(session.id, token, additional_headers={"Origin": origin}) as client:
            assert (await client.next())["type"] == "snapshot"
    with pytest.raises(InvalidStatus):
        async with web.follow(session.id, token, additional_headers={"Origin": "http://localhost:5173"}):
            pass


# -- limits ----------------------------------------------------------------------------


async def test_one_address_has_so_many_sockets(start_web: StartWeb) -> None:
    web = await start_web(sockets_per_address=2)
    session, token = await web.submit()
    async with web.follow(session.id, token) as one, web.follow(session.id, token) as two:
        await one.next("snapshot")
        await two.next("snapshot")
        client = await refused(web, session.id, token)
        assert client.connection.close_code == 4029
        assert client.frames[1]["retry_after_ms"] > 0
    await until(lambda: web.hub.followers == 0)
    async with web.follow(session.id, token) as again:
        assert (await again.next())["type"] == "snapshot"


async def test_one_session_has_so_many_sockets(start_web: StartWeb) -> None:
    web = await start_web(sockets_per_session=2)
    session, token = await web.submit()
    other, others_token = await web.submit()
    async with web.follow(session.id, token) as one, web.follow(session.id, token) as two:
        await one.next("snapshot")
        await two.next("snapshot")
        client = await refused(web, session.id, token)
        assert client.connection.close_code == 4029
        async with web.follow(other.id, others_token) as unconcerned:
            assert (await unconcerned.next())["type"] == "snapshot"


async def test_the_limit_of_a_session_holds_when_all_come_at_once(start_web: StartWeb) -> None:
    web = await start_web(sockets_per_session=3)
    session, token = await web.submit()
    async with contextlib.AsyncExitStack() as stack:
        clients = await asyncio.gather(*(stack.enter_async_context(web.follow(session.id, token)) for _ in range(12)))
        first = [(await client.next())["type"] for client in clients]
        assert first.count("snapshot") == 3
        assert first.count("error") == 9


async def test_a_full_session_looks_like_any_other_to_a_stranger(start_web: StartWeb) -> None:
    web = await start_web(sockets_per_session=1)
    session, token = await web.submit()
    async with web.follow(session.id, token) as owner:
        await owner.next("snapshot")
        client = await refused(web, session.id, WRONG)
        assert client.connection.close_code == 4504


async def test_a_full_process_refuses_before_the_handshake(start_web: StartWeb) -> None:
    web = await start_web(sockets_per_process=1)
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        with pytest.raises(InvalidStatus) as refusal:
            async with web.follow(session.id, token):
                pass
        answer = refusal.value.response
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert json.loads(answer.body or b"")["code"] == "unavailable"


# -- what a client may say -------------------------------------------------------------


async def test_a_ping_is_answered_by_a_pong(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send({"type": "ping"})
        assert set(await client.next("pong")) == {"type", "at"}


async def test_pings_come_every_period(start_web: StartWeb) -> None:
    web = await start_web(ping_seconds=0.1)
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        assert (await client.next())["ping_seconds"] == 0.1
        for _ in range(3):
            assert set(await client.next()) == {"type", "at"}
        assert client.types == ["snapshot", "ping", "ping", "ping"]


async def test_who_answers_no_ping_is_let_go_before_the_next_one(
    start_web: StartWeb, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    if ws is not Handshake:
        pytest.skip("there uvicorn pings, every 20 s")
    pinged: Counter[WireSocket] = Counter()
    ping = WireSocket.ping

    def count(wire: WireSocket, frame: bytes) -> None:
        pinged[wire] += 1
        ping(wire, frame)

    monkeypatch.setattr(WireSocket, "ping", count)
    web = await start_web(ping_seconds=3600)  # the wheel turns when the test says so
    session, token = await web.submit()
    async with web.follow(session.id, token) as client, raw(web, session.id, token) as silent:
        await client.next("snapshot")
        assert b'"snapshot"' in (await silent.frame())[1]
        both = [wire for wire in web.hub.registry.of(session.id) if isinstance(wire, WireSocket)]
        for wire in both:  # it is their turn next
            web.hub.pings._slots[wire.slot].pop(wire)
            wire.slot = (web.hub.pings._turn + 1) % len(web.hub.pings._slots)
            web.hub.pings._slots[wire.slot][wire] = None
        web.hub.pings.turn()
        await client.next("ping")
        await until(lambda: [wire._pong_due for wire in both].count(True) == 1)  # it has answered
        for _ in web.hub.pings._slots:
            if web.hub.followers == 2:
                web.hub.pings.turn()
        [gone] = [wire for wire in both if wire not in web.hub.registry.of(session.id)]
        assert pinged[gone] == 1
        assert await silent.until_closed() == 4003


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "[]",
        "null",
        '{"type":7}',
        '{"type":"dance"}',
        '{"type":"sync","since":"x"}',
        '{"a":1}',
        b"\x00\xff",
    ],
)
async def test_what_makes_no_sense_is_ignored(web: Web, message: str | bytes) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.connection.send(message)
        await client.send({"type": "ping"})
        await client.next("pong")
        assert client.types == ["snapshot", "pong"]


async def test_a_sync_brings_a_new_snapshot_with_what_was_missed(web: Web) -> None:
    session, token = await web.submit()
    await web.begin(session)
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send({"type": "sync", "since": 1})
        snapshot = await client.next("snapshot")
        assert snapshot["session"]["seq"] == 2
        assert [event["seq"] for event in snapshot["missed"]] == [2]


async def test_one_sync_a_second_is_answered(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(5):
            await client.send({"type": "sync", "since": 0})
        await client.next("snapshot")
        await client.send({"type": "ping"})
        await client.next("pong")
        assert client.types == ["snapshot", "snapshot", "pong"]


@pytest.mark.parametrize("since", [-5, 10**9, 2**31, 2**63, 10**30])
async def test_a_sync_with_an_absurd_seq_harms_nobody(web: Web, since: int) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send({"type": "sync", "since": since})
        assert (await client.next("snapshot"))["session"]["seq"] == 1
        await client.send({"type": "ping"})
        await client.next("pong")


async def test_a_sync_never_steps_back_while_events_flow(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.web.transports.inbound.SYNC_SECONDS", 0.0)
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        last = (await client.next("snapshot"))["session"]["seq"]

        async def work() -> None:
            for _ in range(15):
                claim = await web.begin(session)
                await web.services.sessions.claims.requeue(claim, burnt=False, reason="drained")
            await web.complete(await web.begin(session))

        async def ask() -> None:
            for _ in range(60):
                await client.send({"type": "sync", "since": 0})
                await asyncio.sleep(0.005)

        working, asking = asyncio.create_task(work()), asyncio.create_task(ask())
        await client.rest()
        await working
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for frame in client.frames[1:]:
            if frame["type"] == "snapshot":
                assert frame["session"]["seq"] >= last
                last = frame["session"]["seq"]
                assert [event["seq"] for event in frame["missed"]] == list(range(1, last + 1))
            elif frame["type"] == "event":
                assert frame["seq"] == last + 1
                last = frame["seq"]
        assert last == 33
        assert client.types.count("snapshot") > 3


async def test_the_101st_message_in_10_seconds_is_misuse(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(100):
            await client.send({"type": "nothing"})
        await client.send({"type": "ping"})
        assert await client.rest() == 4500
        assert client.types == ["snapshot", "bye"]
        assert (client.frames[-1]["reason"], client.frames[-1]["reconnect"]) == ("misuse", False)


async def test_no_10_seconds_may_have_more_wherever_they_begin(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    receive = InboundState.receive

    def at(state: InboundState, text: str, now: float, *, admitted: bool) -> Answer:
        return receive(state, text, clock.now, admitted=admitted)

    monkeypatch.setattr(InboundState, "receive", at)
    session, token = await web.submit()

    async def speak(client: Client, times: int) -> None:
        for _ in range(times):
            await client.send({"type": "ping"})
            await client.next("pong")

    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await speak(client, 1)
        clock.now = 1009.9
        await speak(client, 99)
        clock.now = 1010.1  # the first no longer counts
        await speak(client, 1)
        await client.send({"type": "ping"})
        assert await client.rest() == 4500


async def test_a_sync_that_fails_is_told_to_come_again(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*args: Any, **options: Any) -> Any:
        raise ValueError("a bug")

    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        monkeypatch.setattr(type(web.services.sessions.reads), "read_again", fail)
        await client.send({"type": "sync", "since": 0})
        assert await client.rest() == 4001
        assert client.frames[-1]["reason"] == "internal_error"


async def test_a_sync_while_the_database_is_away_leaves_the_client_where_it_was(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, read = asyncio.Event(), asyncio.Event()

    async def away(*args: Any, **options: Any) -> Any:
        asked.set()
        await read.wait()
        raise Unavailable

    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        with monkeypatch.context() as patch:
            patch.setattr(type(web.services.sessions.reads), "read_again", away)
            await client.send({"type": "sync", "since": 0})
            await asked.wait()
            claim = await web.begin(session)  # comes while it is read
            read.set()
            assert (await client.next("event"))["seq"] == 2
            await client.next("ping")
        await web.complete(claim)
        assert await client.rest() == 1000
        assert client.story() == [1, 2, 3]


async def test_a_hundred_messages_are_no_misuse(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(99):
            await client.send({"type": "nothing"})
        await client.send({"type": "ping"})
        await client.next("pong")


async def test_a_frame_over_4_kib_is_1009(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send("x" * 4097)
        assert await client.rest() == 1009
    await until(lambda: web.hub.followers == 0)


async def test_a_client_that_leaves_is_forgotten(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        assert web.hub.followers == 1
    await until(lambda: web.hub.followers == 0)
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        client.connection.transport.abort()
    await until(lambda: web.hub.followers == 0)


# -- a client that speaks in bytes -----------------------------------------------------


class Raw:
    """A WebSocket client that may send any bytes at any moment."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload."""
        first, length = await self.reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await self.reader.readexactly(2), "big")
        return first & 0x0F, await self.reader.readexactly(length)

    async def until_closed(self) -> int:
        """The code of the close frame; what comes before it does not matter."""
        async with asyncio.timeout(10):
            while True:
                opcode, payload = await self.frame()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2], "big")


def upgrade(session_id: str, token: str, headers: str = "") -> bytes:
    return (
        f"GET /api/tryon/sessions/{session_id}/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Client-Token: {token}\r\n"
        f"{headers}\r\n"
    ).encode()


@contextlib.asynccontextmanager
async def raw(web: Web, session_id: str, token: str, early: bytes = b"", headers: str = "") -> AsyncIterator[Raw]:
    """Connected; ``early`` is sent in one piece with the head, before anything was
    answered.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(upgrade(session_id, token, headers) + early)
    try:
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


PING_TEXT = masked(TEXT, b'{"type":"ping"}')


async def test_what_came_before_the_answer_is_not_lost(web: Web, ws: type[asyncio.Protocol]) -> None:
    """Frames without waiting for the 101, the last one cut anywhere."""
    if ws is not Handshake:
        pytest.skip("uvicorn's own drops them")
    session, token = await web.submit()
    for cut in range(len(PING_TEXT) + 1):
        async with raw(web, session.id, token, masked(PING, b"early") + PING_TEXT[:cut]) as client:
            async with asyncio.timeout(5):
                heard: list[tuple[int, bytes]] = []
                while not any(b'"snapshot"' in payload for _, payload in heard):
                    heard.append(await client.frame())
                client.writer.write(PING_TEXT[cut:] + masked(PING, b"late"))
                while (PONG, b"late") not in heard:
                    heard.append(await client.frame())
            assert heard.count((PONG, b"early")) == 1
            client.writer.write(masked(CLOSE, b"\x03\xe8"))
            assert await client.until_closed() == 1000, "broken frame"


@pytest.mark.parametrize(
    "flood",
    [masked(PONG), masked(PING), masked(TEXT, b"", final=False) + masked(CONTINUATION, final=False) * 20_000],
    ids=["pongs", "pings", "fragments"],
)
async def test_a_flood_of_empty_frames_is_misuse(
    web: Web, ws: type[asyncio.Protocol], flood: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ws is not Handshake:
        pytest.skip("only a detached socket sees what is no message")
    session, token = await web.submit()
    parsed = 0

    def count(data: bytes) -> Any:
        nonlocal parsed
        frames, rest = parse_frames(data)
        parsed += len(frames)
        return frames, rest

    monkeypatch.setattr("server.web.transports.wire.parse_frames", count)
    async with raw(web, session.id, token) as client:
        assert (await client.frame())[0] == TEXT
        for _ in range(20):
            client.writer.write(flood if len(flood) > 1000 else flood * 20_000)
        assert await client.until_closed() == 4500
        await until(lambda: web.hub.followers == 0)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                await client.reader.read()  # cut off although it never closes
    assert parsed < 2 * MAX_FRAMES + MAX_AFTER_CLOSE_BYTES // 6


async def test_answering_our_pings_is_no_misuse(
    start_web: StartWeb, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    if ws is not Handshake:
        pytest.skip("the other path answers pings before we see them")
    monkeypatch.setattr("server.web.transports.inbound.INBOUND_LIMIT", 3)
    web = await start_web(ping_seconds=0.02)
    session, token = await web.submit()
    async with raw(web, session.id, token) as client, asyncio.timeout(10):
        pings = 0
        while pings < 8:
            opcode, _ = await client.frame()
            assert opcode != CLOSE
            if opcode == PING:
                pings += 1
                client.writer.write(masked(PONG))
        client.writer.write(masked(PONG) * 5)  # these answer nothing
        assert await client.until_closed() == 4500


async def test_what_was_on_its_way_when_we_closed_does_no_harm(web: Web) -> None:
    session, token = await web.submit()
    claim = await web.begin(session)
    async with raw(web, session.id, token) as client:
        await client.frame()
        await web.complete(claim)
        assert await client.until_closed() == 1000
        client.writer.write(PING_TEXT * 50 + masked(CLOSE, b"\x03\xe8"))
        async with asyncio.timeout(1):  # at once: our patience with a silent one is longer
            assert await client.reader.read() == b""


# -- the other ends --------------------------------------------------------------------


@pytest.mark.parametrize("reason", GoneReason)
async def test_an_erasure_is_told_with_its_reason(web: Web, reason: GoneReason) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        row = await web.database.reading.get(session.id)
        assert row is not None
        await web.services.sessions.erasure.erase(row, reason)
        assert await client.rest() == 4510
        assert client.frames[-1] == {
            "type": "bye",
            "code": 4510,
            "reason": reason,
            "reconnect": False,
            "retry_after_ms": None,
        }
    assert (await refused(web, session.id, token)).connection.close_code == 4504


async def test_a_reader_that_never_reads_stops_nobody_else_and_is_dropped(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.web.transports.asgi_socket.SEND_SECONDS", 0.3)
    session, token = await web.submit()
    claim = await web.begin(session)
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", web.port))
    raw.setblocking(False)
    deaf = connect(
        web.ws_url(session.id),
        sock=raw,
        subprotocols=["tryon.v1", f"tryon.bearer.{token}"],  # type: ignore[list-item]
        proxy=None,
        max_queue=1,
        close_timeout=0.1,
    )
    async with deaf as stuck, web.follow(session.id, token, max_size=None) as reader:
        stuck.transport.pause_reading()
        await reader.next("snapshot")
        await until(lambda: web.hub.followers == 2)
        large = json.dumps({"type": "progress", "seq": 2, "progress": 0.5, "stage": "x" * 1_000_000}).encode()
        for _ in range(20):
            await web.services.bus.publish(session.id, bus_message(PROGRESS, 2, 1, large))
            await reader.next("progress")
        await until(lambda: web.hub.followers == 1, seconds=5)
        await web.complete(claim)
        assert await reader.rest() == 1000
        assert reader.story() == [2, 3]
        stuck.transport.abort()


async def test_a_stopping_server_tells_every_socket_when_to_come_back(
    stack: StartStack, redis_url: str, config: Callable[..., Config]
) -> None:
    settings = config()
    env: dict[str, Any] = {
        "TRYON_REDIS_URL": redis_url,
        "TRYON_DATABASE_URL": settings.database,
        "TRYON_SECRET_KEY": settings.secret_keys[0],
        "TRYON_LOG_FORMAT": "text",
    }
    process = await stack("serve", ready=False, **env)
    port = int((await process.line(r"Listening on http://127\.0\.0\.1:(\d+)"))[1])
    token = new_token()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        answer = await http.post(
            "/api/tryon/sessions",
            files={"image": ("photo.png", png(), "image/png")},
            headers={"X-Client-Token": token},
        )
        session_id = answer.json()["session_id"]
    url = f"ws://127.0.0.1:{port}/api/tryon/sessions/{session_id}/ws"
    async with contextlib.AsyncExitStack() as connections:
        clients = []
        for _ in range(10):
            headers = {"X-Client-Token": token}
            clients.append(
                Client(await connections.enter_async_context(connect(url, additional_headers=headers, proxy=None)))
            )
        for client in clients:
            await client.next("snapshot")
        process.process.terminate()
        for client in clients:
            assert await client.rest(5) == 4000
            bye = client.frames[-1]
            assert (bye["code"], bye["reason"], bye["reconnect"]) == (4000, "draining", True)
            assert 1500 <= bye["retry_after_ms"] <= 2500
        assert len({client.frames[-1]["retry_after_ms"] for client in clients}) > 1, "not all at once"
    assert await process.wait(6) in (0, -15)


async def test_a_client_comes_back_to_another_server_and_misses_nothing(start_web: StartWeb) -> None:
    first, second = await start_web(), await start_web()
    session, token = await first.submit()
    async with first.follow(session.id, token) as client:
        await client.next("snapshot")
    claim = await second.begin(session)
    async with second.follow(session.id, token, "?since=1") as client:
        assert [event["seq"] for event in (await client.next())["missed"]] == [2]
        await first.complete(claim)
        assert await client.rest() == 1000
        assert client.story() == [2, 3]
