"""The judge itself: it finds what is wrong with a client's record, and nothing wrong with a right one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from benchmarks.recorders import Recorder, Sight, judge
from server.domain.session import AuditEvent, new_session_id
from server.domain.states import Event, Status

ID = new_session_id()
STORY = ((Event.CREATED, None), (Event.PROCESSING, Status.CREATED), (Event.COMPLETED, Status.PROCESSING))
AT = 1_700_000_000.0


def trail(*story: tuple[Event, Status | None]) -> list[AuditEvent]:
    return [
        AuditEvent(
            session_id=ID,
            seq=seq,
            event=event,
            from_status=before,
            status=Status(event.value),
            at=datetime.fromtimestamp(AT + seq, UTC),
            attempt=1,
            actor="test",
            data={},
        )
        for seq, (event, before) in enumerate(story, 1)
    ]


@pytest.fixture
async def recorder() -> Recorder:
    """What a client wrote down that saw everything, a tenth of a second late."""
    async with httpx.AsyncClient() as http:
        made = Recorder("ws", ["http://nowhere"], ID, "token", http=http)
    made.began = AT
    made.sights = [
        Sight(e.seq, e.event.value, e.status.value, e.at.timestamp(), e.at.timestamp() + 0.1) for e in trail(*STORY)
    ]
    made.snapshots = [(AT, 1)]
    made.outcome = "completed"
    return made


async def test_nothing_is_wrong_with_a_right_record(recorder: Recorder) -> None:
    verdict = judge([recorder], {ID: trail(*STORY)})
    assert verdict.wrong == []
    assert verdict.stale_seconds == pytest.approx(0.1)


def _forget(recorder: Recorder) -> None:
    del recorder.sights[1]


def _repeat(recorder: Recorder) -> None:
    recorder.sights.insert(1, recorder.sights[0])


def _step_back(recorder: Recorder) -> None:
    recorder.sights.reverse()


def _older_state(recorder: Recorder) -> None:
    recorder.snapshots = [(AT, 2), (AT + 1, 1)]


def _miss_the_end(recorder: Recorder) -> None:
    del recorder.sights[2]


def _another_end(recorder: Recorder) -> None:
    recorder.outcome = "failed"


def _no_end(recorder: Recorder) -> None:
    recorder.outcome = None


def _invent(recorder: Recorder) -> None:
    recorder.sights.append(Sight(4, "requeued", "created", AT, AT))


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (_forget, "gap"),
        (_repeat, "repeat or step back"),
        (_step_back, "repeat or step back"),
        (_older_state, "an older state"),
        (_miss_the_end, "of 3 transitions"),
        (_another_end, "ended with failed"),
        (_no_end, "ended with None"),
        (_invent, "never happened"),
    ],
)
async def test_every_wrong_is_found(recorder: Recorder, harm: Callable[[Recorder], None], problem: str) -> None:
    harm(recorder)
    verdict = judge([recorder], {ID: trail(*STORY)})
    assert any(problem in each for each in verdict.wrong), verdict.wrong


@pytest.mark.parametrize(
    ("story", "problem"),
    [
        ((*STORY, (Event.FAILED, Status.PROCESSING)), "went on after its end"),
        (STORY[:2], "has not ended"),
    ],
)
async def test_a_wrong_trail_is_found_too(
    recorder: Recorder, story: tuple[tuple[Event, Status | None], ...], problem: str
) -> None:
    verdict = judge([recorder], {ID: trail(*story)})
    assert any(problem in each for each in verdict.wrong), verdict.wrong


async def test_news_that_waited_for_a_client_is_stale_from_its_beginning_only(recorder: Recorder) -> None:
    recorder.began = AT + 2.05
    assert judge([recorder], {ID: trail(*STORY)}).stale_seconds == pytest.approx(0.1)
