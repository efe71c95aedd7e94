"""The screen of ``tryon top`` fits any terminal, and shows what is asked for."""

from __future__ import annotations

import pytest

from server.cli.top_feed import Lost, Picture
from server.cli.top_screen import Line, screen
from server.domain.operator import (
    Action,
    ActionsFrame,
    ByeFrame,
    FailureCount,
    Overview,
    Place,
    ProcessorState,
    QueueState,
    SessionRow,
    SessionsFrame,
    State,
    StateFrame,
    Step,
    WebState,
    WorkerState,
)

NOW = "2026-01-01T00:01:00.000Z"


def row(number: int, status: str = "processing", **more: object) -> SessionRow:
    """Return a session that waited for 4 s, and then has run."""
    begin, claim = "2026-01-01T00:00:00.000Z", "2026-01-01T00:00:04.000Z"
    steps = [Step(1, "created", "created", begin, 0)]
    if status != "created":
        steps.append(Step(2, "processing", "processing", claim, 1))
    values: dict[str, object] = {
        "session_id": f"0190a000-0000-7000-8000-{number:012}",
        "status": status,
        "seq": len(steps),
        "attempt": len(steps) - 1,
        "burnt": 0,
        "processor": "mock",
        "created_at": begin,
        "finished_at": None,
        "deadline_at": "2026-01-01T00:10:00.000Z",
        "cancel_requested": False,
        "worker": "host:1:ab",
        "lease_expires_at": None,
        "error_code": None,
        "request_id": None,
        "retry_of": None,
        "steps": steps,
    }
    return SessionRow(**(values | more))  # type: ignore[arg-type]


def picture(*sessions: SessionRow, troubles: tuple[str, ...] = ()) -> Picture:
    state = State(
        now=NOW,
        queue=QueueState(2, 1, "2026-01-01T00:00:30.000Z", 2, 1000, {"mock": 2}),
        workers=[WorkerState("host:1:ab", 1.0, 1, "2026-01-01T00:01:08.000Z", "mock", "1")],
        chores=[],
        webs=[WebState("host:2:cd", "1.0", {"ws": 3, "sse": 1}, 1, 0.0)],
        failures=[FailureCount("timeout", 4)],
        processors=[ProcessorState("mock", 9, 4, 0.5, 1.0, 3.0, 6.0)],
        places={each.session_id: Place(7, 0.5, "warping") for each in sessions},
        troubles=list(troubles),
        sampled=False,
    )
    made = Picture()
    made.take(Overview("aaaaaaaa", "1.0", state, list(sessions), []))
    return made


def drawn(made: Picture, *, columns: int = 160, rows: int | None = None, **more: object) -> list[Line]:
    return screen(made, server="http://tryon.example", status="live", columns=columns, rows=rows, **more)  # type: ignore[arg-type]


def text(lines: list[Line]) -> str:
    return "\n".join(line.text for line in lines)


def test_screen_shows_numbers_and_sessions() -> None:
    """Queue, workers, connections, failures, and where each session is."""
    failed = row(2, "failed", error_code="timeout", finished_at="2026-01-01T00:00:10.000Z")
    shown = text(drawn(picture(row(1), failed, row(3, "created"))))
    for part in (
        "Waiting 2, oldest 30 s",
        "Workers 1",
        "sse 1, ws 3",
        "Failed 4 in 1 h",
        "host:1:ab",
        "50% warping on host:1:ab",
        "run 6.0 s  timeout",
        "place 7",
        "run 56 s",
    ):
        assert part in shown, part


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
@pytest.mark.parametrize("rows", [3, 10, 24, 60])
def test_screen_fits_the_terminal(columns: int, rows: int) -> None:
    """It is never longer or wider, with more sessions than fit."""
    lines = drawn(
        picture(*(row(number) for number in range(100)), troubles=("Redis is away.",)), columns=columns, rows=rows
    )
    assert len(lines) == rows
    assert all(len(line.text) <= columns for line in lines)


def test_screen_scrolls_to_the_last_session() -> None:
    """An offset beyond the end shows the end."""
    made = picture(*(row(number) for number in range(50)))
    assert "8000-000000000049" in text(drawn(made, rows=40))
    last = text(drawn(made, rows=40, offset=1000))
    assert "8000-000000000000" in last
    assert "of 50" in last


def test_screen_filters_sessions() -> None:
    """Active ones, or failed ones."""
    made = picture(row(1), row(2, "failed"), row(3, "completed"))
    for shown, number in (("active", 1), ("failed", 2)):
        found = text(drawn(made, shown=shown))
        assert f"8000-00000000000{number}" in found
        assert sum(f"8000-00000000000{each}" in found for each in (1, 2, 3)) == 1
    assert "No session is failed." in text(drawn(picture(row(1)), shown="failed"))


def test_screen_obeys_no_control_character() -> None:
    """A processor's stage moves no cursor."""
    made = picture(row(1))
    assert made.state is not None
    made.state.places[row(1).session_id] = Place(None, None, "\x1b[2Jwarping\x07")
    shown = text(drawn(made))
    assert "\x1b" not in shown
    assert "warping" in shown


def test_screen_needs_no_blocks() -> None:
    """On a terminal without them the timeline is ASCII."""
    assert text(drawn(picture(row(1)), blocks=False)).isascii()


def test_picture_follows_the_frames() -> None:
    """Sessions come, change and go; actions get their outcome; a goodbye is a loss."""
    made = picture(row(1), row(2))
    made.take(SessionsFrame([row(2, "completed"), row(3)], [row(1).session_id]))
    assert [(each.session_id[-1], each.status) for each in made.sessions] == [("3", "processing"), ("2", "completed")]
    asked = Action(1, NOW, "aaaaaaaa", "cancel", "ffffffff", None, "asked", None)
    done = Action(1, NOW, "aaaaaaaa", "cancel", "ffffffff", None, "cancelled", None)
    made.take(ActionsFrame([asked]))
    made.take(ActionsFrame([done]))
    assert made.actions == [done]
    assert made.state is not None
    made.take(StateFrame(made.state))
    with pytest.raises(Lost):
        made.take(ByeFrame("draining"))
