"""The ladder: which transport comes next, and after which pause."""

from __future__ import annotations

import random

import pytest

from tryon.client.connection import Lost
from tryon.client.ladder import Ladder, Step, is_final
from tryon.protocol.backoff import CLIMB_FIRST_SECONDS, CLIMB_MOST_SECONDS, TRANSPORTS, TRIES
from tryon.protocol.close_codes import CLOSE_CODES, Reconnect


class Longest(random.Random):
    """Chance that always draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        """Return the upper bound."""
        return b


def ladder(*transports: str) -> Ladder:
    return Ladder(transports or TRANSPORTS, Longest())


def lose(which: Ladder, transport: str, lost: Lost, *, worked: bool = False, live_seconds: float = 0.0) -> Step:
    return which.after(transport, lost, worked=worked, live_seconds=live_seconds)


def proven(*transports: str) -> Ladder:
    made = ladder()
    for transport in transports:
        made.worked(transport)
    return made


def test_blocked_sockets_lead_down_at_once() -> None:
    """Leave a transport that never worked after one attempt, without a pause."""
    which = ladder()
    assert lose(which, "ws", Lost(403)) == Step("sse", 0.0)
    assert lose(which, "sse", Lost(1006, "silent")) == Step("long-poll", 0.0)
    assert lose(which, "long-poll", Lost(502)) == Step("poll", 0.0)
    assert lose(which, "poll", Lost(502)).transport == "poll"


def test_missing_server_is_not_asked_in_four_ways() -> None:
    """Return to the best transport while no request gets any answer."""
    which = ladder()
    assert lose(which, "ws", Lost(1006)).transport == "sse"
    assert lose(which, "sse", Lost(1006, reached=False)) == Step("long-poll", 0.0)
    step = lose(which, "long-poll", Lost(1006, reached=False))
    assert step.transport == "ws"
    assert step.pause > 0


def test_lowest_event_stream_gives_way_to_sockets() -> None:
    """Return to WebSockets where nothing below event streams is allowed."""
    which = ladder("ws", "sse")
    lose(which, "ws", Lost(1006))
    assert lose(which, "sse", Lost(1006, reached=False)).transport == "ws"


def test_proven_transport_has_several_attempts() -> None:
    """Leave a transport that has worked only after several failures in a row."""
    which = proven("ws")
    steps = [lose(which, "ws", Lost(1006)) for _ in range(TRIES)]
    assert [step.transport for step in steps] == ["ws"] * (TRIES - 1) + ["sse"]


def test_lost_connection_is_made_again_on_its_transport() -> None:
    """Stay with a transport whose connection stood."""
    which = proven("ws")
    assert lose(which, "ws", Lost(1006), worked=True, live_seconds=60).transport == "ws"


def test_pauses_double_up_to_thirty_seconds() -> None:
    """Draw from a bound that doubles with each failure."""
    which = ladder("poll")
    pauses = [lose(which, "poll", Lost(503)).pause for _ in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_pauses_stay_bounded_after_many_failures() -> None:
    """Keep to the longest pause where doubling would overflow."""
    which = ladder("poll")
    for _ in range(1_100):
        pause, climb = lose(which, "poll", Lost(503)).pause, which.climb_pause()
    assert (pause, climb) == (30.0, 1.25 * CLIMB_MOST_SECONDS)


def test_pause_is_full_jitter() -> None:
    """Draw any pause from zero to the bound."""
    pauses = [Ladder(("poll",), random.Random(seed)).after("poll", Lost(1006), worked=True, live_seconds=0).pause
              for seed in range(200)]  # fmt: skip
    assert min(pauses) < 0.05
    assert 0.45 < max(pauses) <= 0.5


def test_steady_connection_resets_the_pauses() -> None:
    """Begin anew after a connection that stood for five seconds."""
    which = ladder("poll")
    for _ in range(5):
        lose(which, "poll", Lost(503))
    assert lose(which, "poll", Lost(503), worked=True, live_seconds=5).pause == 0.5
    assert lose(which, "poll", Lost(503), worked=True, live_seconds=4.9).pause == 1


def test_named_pause_is_kept() -> None:
    """Wait exactly as long as the server says."""
    which = proven("ws")
    assert lose(which, "ws", Lost(4000, retry_after=1.25), worked=True) == Step("ws", 1.25)
    assert lose(which, "ws", Lost(4053, retry_after=7.0)) == Step("ws", 7.0)


@pytest.mark.parametrize("row", [row for row in CLOSE_CODES if row.reconnect is Reconnect.AT_ONCE])
def test_resync_reconnects_at_once_and_then_backs_off(row: object) -> None:
    """Lose no time the first time, and do not hammer the server after that."""
    which = proven("ws")
    code = row.code  # type: ignore[attr-defined]
    assert lose(which, "ws", Lost(code), worked=True).pause == 0.0
    assert lose(which, "ws", Lost(code), worked=True).pause == 1.0


@pytest.mark.parametrize("code", [1000, 1002, 1007, 1009])
def test_broken_transport_is_ruled_out(code: int) -> None:
    """Drop a transport that breaks the protocol, unless it is the only one."""
    which = proven("ws")
    assert lose(which, "ws", Lost(code), worked=True).transport == "sse"
    assert which.best == "sse"
    assert which.better("poll") == "sse"
    alone = ladder("ws")
    assert lose(alone, "ws", Lost(code)).transport == "ws"


def test_climb_tries_the_best_first() -> None:
    """Try each better transport in turn, beside the present one."""
    which = ladder()
    assert [which.better("poll"), which.better("poll", "ws"), which.better("poll", "sse")] == ["ws", "sse", "long-poll"]
    assert which.better("poll", "long-poll") is None
    assert which.better("ws") is None
    assert ladder("ws", "poll").better("poll", "ws") is None


def test_climbs_become_rare_and_start_anew() -> None:
    """Double the time between climbs up to 5 minutes; a success resets it."""
    which = ladder()
    pauses = [which.climb_pause() for _ in range(8)]
    assert pauses[:2] == [1.25 * CLIMB_FIRST_SECONDS, 2.5 * CLIMB_FIRST_SECONDS]
    assert pauses[-1] == 1.25 * CLIMB_MOST_SECONDS
    which.climbed()
    assert which.climb_pause() == pauses[0]


@pytest.mark.parametrize("row", CLOSE_CODES, ids=lambda row: row.code.name)
def test_close_codes_stop_as_their_table_says(row: object) -> None:
    """Stop at 4500 to 4999, and come back from every other code of the product."""
    code, reconnect = row.code, row.reconnect  # type: ignore[attr-defined]
    if code >= 4000:
        assert is_final("ws", Lost(code)) == (reconnect is Reconnect.NO)
    else:
        assert not is_final("ws", Lost(code)), "before the end, another transport may do better"


@pytest.mark.parametrize(("code", "final"), [(4499, False), (4500, True), (4999, True), (5000, False)])
def test_unknown_close_codes_stop_by_their_range(code: int, final: bool) -> None:
    """Judge a code that this client does not know by its range."""
    assert is_final("ws", Lost(code)) == final


@pytest.mark.parametrize(
    ("transport", "finals"),
    [("ws", set()), ("sse", {401, 404}), ("long-poll", {401, 404}), ("poll", {401, 404})],
)
def test_http_refusals_stop_where_they_are_the_servers(transport: str, finals: set[int]) -> None:
    """Take no refusal for the server's that a proxy may have given."""
    statuses = {204, 400, 401, 403, 404, 407, 408, 413, 425, 429, 431, 451, 500, 502, 503}
    assert {status for status in statuses if is_final(transport, Lost(status))} == finals
    assert is_final(transport, Lost(400, "bad_request")) == (transport != "ws")
    assert not is_final(transport, Lost(400, "a proxy's own"))


@pytest.mark.parametrize("transports", [(), ("carrier pigeon",), ("ws", "smoke")])
def test_unknown_transports_are_refused(transports: tuple[str, ...]) -> None:
    """Fail early where no transport, or an unknown one, is allowed."""
    with pytest.raises(ValueError, match="transports must be"):
        Ladder(transports, random.Random())
