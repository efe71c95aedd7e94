"""Timers of connections: whatever a client leaves out, or sends slowly, ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress

import pytest

from server.web.serving import exchange, http, pace, phases
from server.web.serving.exchange import Exchange
from testkit.raw_http import LIVE, heard, raw
from testkit.running import StartWeb, Web, until
from tryon.protocol.paths import SESSIONS

NOWHERE = b"POST /nothing HTTP/1.1\r\nHost: x\r\n"
SIZED = NOWHERE + b"Content-Length: 100000\r\n\r\nx"
CHUNKED = NOWHERE + b"Transfer-Encoding: chunked\r\n\r\n"
UPLOAD = (
    b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" % SESSIONS.encode()
)


PROXY = (ipaddress.ip_network("127.0.0.0/8"),)
PROMISED_SECONDS = 20.0
LONGEST = (phases.IDLE_SECONDS, phases.HEAD_SECONDS + http.LINGER_SECONDS, pace.WINDOW_SECONDS + http.LINGER_SECONDS)


def test_phases_keep_the_promise() -> None:
    """A connection whose answer is not due ends in 20 s."""
    assert max(LONGEST) < PROMISED_SECONDS


@pytest.fixture(autouse=True)
def short_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale all times by a fiftieth: promised are 20 s, here 0.4."""
    monkeypatch.setattr(phases, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(phases, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(phases, "WINDOW_SECONDS", 0.2)
    monkeypatch.setattr(http, "LINGER_SECONDS", 0.05)


SLOW = {
    "no byte": (b"", b""),
    "idle": (LIVE, b""),
    "empty lines": (LIVE, b"\r\n"),
    "head": (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"x"),
    "next head": (LIVE + b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"x"),
    "answered body": (SIZED, b""),
    "answered body in bytes": (SIZED, b"x"),
    "answered chunk": (CHUNKED + b"fff\r\n", b"x"),
    "answered chunks": (CHUNKED, b"1\r\nx\r\n"),
    "answered extension": (CHUNKED + b"5;", b"x"),
    "answered trailer": (CHUNKED + b"0\r\nX: ", b""),
    "answered trailers": (CHUNKED + b"0\r\n", b"X: y\r\n"),
    "extension of an upload": (UPLOAD + b"5;", b"x"),
    "trailers of an upload": (UPLOAD + b"1\r\n-\r\n0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("shape", SLOW)
async def test_slow_request_is_closed(web: Web, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    """Nothing that trickles in extends the time."""
    if shape not in ("no byte", "idle"):
        monkeypatch.setattr(phases, "IDLE_SECONDS", 30.0)  # else it may end before the first drip of a busy machine
    start, drip = SLOW[shape]
    async with raw(web, start) as connection:

        async def trickle() -> None:
            while drip:
                await asyncio.sleep(0.04)
                await connection.send(drip)

        trickling = asyncio.create_task(trickle())
        answers = await connection.rest()
        trickling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await trickling
    statuses = [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]
    expected = {"no byte": [], "idle": [200], "empty lines": [200, 408], "head": [408], "next head": [200, 408]}
    assert statuses == expected.get(shape, [408] if "upload" in shape else [404])


@pytest.mark.parametrize("shape", [shape for shape in SLOW if shape.startswith("answered")])
async def test_slow_body_from_proxy_is_answered_then_closed(
    start_web: StartWeb, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """The answer waits for the rest of a body, and not for ever."""
    monkeypatch.setattr(phases, "IDLE_SECONDS", 30.0)
    start, _ = SLOW[shape]
    answers = await heard(await start_web(trusted_proxies=PROXY), start)
    assert answers.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close\r\n" in answers.lower()


@pytest.mark.parametrize("start", [b"", LIVE])
async def test_proxy_may_keep_its_connection(
    start_web: StartWeb, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """A trusted proxy's idle connection has a time of its own; its heads have not."""
    monkeypatch.setattr(phases, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(phases, "PROXY_IDLE_SECONDS", 0.4)
    web = await start_web(trusted_proxies=PROXY)
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = await heard(web, start)
    assert loop.time() - began >= 0.4
    assert answers.startswith(b"HTTP/1.1 200" if start else b"")
    monkeypatch.setattr(phases, "PROXY_IDLE_SECONDS", 60.0)
    assert (await heard(web, start + LIVE[:-2])).endswith(b"}")


async def test_body_that_comes_in_time_keeps_its_connection(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused body is read to its end, and the next request is answered."""
    monkeypatch.setattr(phases, "WINDOW_SECONDS", 10.0)
    async with raw(web, SIZED) as connection:
        assert (await connection.answer())[0] == 404
        await connection.send(bytes(99_999) + LIVE)
        assert (await connection.answer())[0] == 200


def exchange_of_test() -> Exchange | None:
    """Return the request of the only connection."""
    found = [one for one in gc.get_objects() if type(one) is http.HttpProtocol and one._exchange]
    return found[0]._exchange if found else None


async def test_proxy_gets_no_answer_before_it_has_passed_the_body_on(
    start_web: StartWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal waits for the end of the body; then the next request is answered."""
    monkeypatch.setattr(phases, "WINDOW_SECONDS", 60.0)
    async with raw(await start_web(trusted_proxies=PROXY), SIZED) as connection:
        await until(lambda: (found := exchange_of_test()) is not None and found.dropping)
        found = exchange_of_test()
        assert found is not None
        await connection.send(bytes(50_000))
        await until(lambda: found.dropped >= 50_000)
        assert not found.started
        await connection.send(bytes(49_999) + LIVE)
        assert (await connection.answer())[0] == 404
        assert (await connection.answer())[0] == 200


async def test_proxy_gets_100_continue_before_refusal(start_web: StartWeb) -> None:
    """It may have invited its client already, whose body is then on its way."""
    invited = NOWHERE + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    async with raw(await start_web(trusted_proxies=PROXY), invited) as connection:
        assert (await connection.answer())[0] == 100
        await connection.send(b"12345" + LIVE)
        assert (await connection.answer())[0] == 404
        assert (await connection.answer())[0] == 200


async def test_proxy_is_answered_when_the_body_takes_too_long(
    start_web: StartWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that comes just fast enough holds its connection for a bounded time."""
    monkeypatch.setattr(phases, "WINDOW_SECONDS", 60.0)
    monkeypatch.setattr(exchange, "REST_SECONDS", 0.1)
    async with raw(await start_web(trusted_proxies=PROXY), SIZED) as connection:
        answer = await connection.rest()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close\r\n" in answer.lower()


async def test_proxy_is_answered_when_the_body_is_too_long(
    start_web: StartWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends then: the body goes on, and no request follows it."""
    monkeypatch.setattr(phases, "WINDOW_SECONDS", 60.0)
    monkeypatch.setattr(http, "MAX_DROPPED_BYTES", 100_000)
    async with raw(await start_web(trusted_proxies=PROXY), CHUNKED) as connection:
        await until(lambda: (found := exchange_of_test()) is not None and found.dropping)
        for _ in range(11):
            await connection.send(b"2710\r\n" + bytes(10_000) + b"\r\n")
        answer = await connection.rest()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close\r\n" in answer.lower()


async def test_proxy_that_breaks_a_body_off_gets_no_answer(
    start_web: StartWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection ends, and the request with it."""
    monkeypatch.setattr(phases, "WINDOW_SECONDS", 60.0)
    async with raw(await start_web(trusted_proxies=PROXY), SIZED):
        await until(lambda: (found := exchange_of_test()) is not None and found.dropping)
        found = exchange_of_test()
        assert found is not None
    await until(lambda: exchange_of_test() is None)
    assert found.disconnected
    assert found.started is False


async def test_answered_chunks_end_their_connection_when_they_are_many(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body without a length could be read for ever, however fast it comes."""
    monkeypatch.setattr(phases, "WINDOW_SECONDS", 60.0)
    monkeypatch.setattr(http, "MAX_DROPPED_BYTES", 100_000)
    async with raw(web, CHUNKED) as connection:
        assert (await connection.answer())[0] == 404
        for _ in range(11):
            await connection.send(b"2710\r\n" + bytes(10_000) + b"\r\n")
        assert await connection.rest() == b""


async def test_each_window_of_an_answered_body_has_its_floor(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came in an earlier window does not count."""
    monkeypatch.setattr(phases, "WINDOW_SECONDS", 60.0)
    async with raw(web, SIZED) as connection:
        assert (await connection.answer())[0] == 404
        (protocol,) = [one for one in gc.get_objects() if type(one) is http.HttpProtocol and one._exchange]
        answered = protocol._exchange
        assert answered is not None
        for window in (1, 2):
            await connection.send(bytes(pace.FLOOR_BYTES))
            await until(lambda: answered.dropped >= window * pace.FLOOR_BYTES)  # noqa: B023  # called at once
            protocol._timer._end()
            assert protocol._timer.phase is phases.Phase.REST
        protocol._timer._end()
        assert await connection.rest() == b""


@pytest.mark.parametrize("length", [b"Content-Length: 99999999999", b"Content-Length: 5\r\nExpect: 100-continue"])
async def test_body_that_may_never_come_ends_its_connection(web: Web, length: bytes) -> None:
    """An endless body, or one that was not asked for, is not read to its end."""
    answer = await heard(web, NOWHERE + length + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close\r\n" in answer.lower()


async def test_refused_client_that_sends_on_is_cut(web: Web) -> None:
    """What arrives after the last answer is dropped, and not for ever."""
    async with raw(web, b"GET / HTTP/1.1\r\nHost\r\n\r\n") as connection:

        async def flood() -> None:
            while True:
                await connection.send(bytes(65_536))
                await asyncio.sleep(0)

        flooding = asyncio.create_task(flood())
        assert (await connection.rest()).startswith(b"HTTP/1.1 400 ")
        flooding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flooding
