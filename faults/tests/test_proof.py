"""What the rows and the soak take for a broken promise, by what they must not let pass."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from faults.scene import FULL, SCALED, Attempt, Pace, Scene
from faults.soak import orphaned, stack_traces
from server.adapters.files.local import DRAFT_SUFFIX
from server.chaos.checker import check
from server.chaos.records import Fault
from server.chaos.verdict import Kind, Loss, Sight
from testkit.proxy import subscribes

SESSION = "01a21131-d51b-77d2-b8ef-3f6d3229f0fd"


def scene(pace: Pace = FULL) -> Scene:
    made = Scene(SimpleNamespace(url="http://127.0.0.1:1"), httpx.AsyncClient(), pace)  # type: ignore[arg-type]
    made.began_at, made.repaired_at = 100.0, 110.0
    return made


def sight(committed: float, stale: float, *, over: str = "ws", status: str = "completed") -> Sight:
    return Sight(stale, stale, over, "", SESSION, "c", status, committed + stale)


@pytest.mark.parametrize("pace", [FULL, SCALED])
@pytest.mark.parametrize(
    ("sights", "good"),
    [
        ([sight(105, 0.5), sight(105, 30, over="poll"), sight(99, 30), sight(111, 30)], True),
        ([sight(105, 5.0)], False),
        ([sight(109, 5.0), sight(105, 0.5)], False),
        ([sight(99, 0.1), sight(105, 0.1, over="poll"), sight(105, 0.1, status="created")], False),
        ([], False),
    ],
)
def test_pushes_that_stop_with_redis_are_noticed(pace: Pace, sights: list[Sight], good: bool) -> None:
    made = scene(pace)
    made.outcome.sights = sights
    made.pushed_meanwhile(2.0)
    assert (not made.outcome.wrong) == good


@pytest.mark.parametrize(
    ("loss", "good"),
    [
        (Loss("poll", 503, live=True), True),
        (Loss("long-poll", 1006, live=True), True),
        (Loss("ws", 4053, live=False), True),
        (Loss("poll", 500, live=True), False),
        (Loss("ws", 1011, live=False), False),
        (Loss("sse", 1006, live=False), False),
    ],
)
def test_only_an_honest_refusal_is_let_pass_without_a_database(loss: Loss, good: bool) -> None:
    made = scene()
    made.outcome.losses[loss] += 1
    made.losses_were_honest()
    assert (not made.outcome.wrong) == good


@pytest.mark.parametrize(("status", "good"), [(200, True), (202, True), (503, True), (500, False), (0, False)])
def test_a_cancel_is_answered_honestly(status: int, good: bool) -> None:
    made = scene()
    made.outcome.cancels[status] += 1
    made.cancels_were_honest()
    assert (not made.outcome.wrong) == good


def test_an_outage_that_nobody_felt_is_none() -> None:
    made = scene()
    made.outcome.uploads = [Attempt(100, 0.1, 201)]
    made.was_felt(2.0)
    assert made.outcome.wrong
    for felt in (Attempt(100, 3.0, 201), Attempt(100, 0.1, 503)):
        made.outcome.wrong.clear()
        made.outcome.uploads = [felt]
        made.was_felt(2.0)
        assert not made.outcome.wrong


def test_a_subscriber_is_known_by_what_it_does_and_not_by_its_name() -> None:
    assert not subscribes(b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$16\r\ntryon-subscriber\r\n")
    assert subscribes(b"*2\r\n$9\r\nSUBSCRIBE\r\n$15\r\ntryon:session:1\r\n")


@pytest.mark.parametrize(
    ("name", "seconds_after_the_kill", "killed", "good"),
    [
        (f"uploads/inputs/{SESSION}-image.jpg", -1, "web killed", True),
        (f"uploads/inputs/{SESSION}-image.jpg", -1, "everything killed", True),
        (f"uploads/inputs/{SESSION}-image.jpg", -60, "web killed", False),
        (f"uploads/inputs/{SESSION}-image.jpg", -1, "worker killed", False),
        (f"uploads/inputs/{SESSION}-image.jpg", -1, "valkey killed", False),
        (f"uploads/outputs/{SESSION}-1.jpg{DRAFT_SUFFIX}", -1, "worker killed", True),
        ("uploads/inputs/ballast", -1, "web killed", False),
    ],
)
def test_a_file_that_is_left_is_excused_by_the_death_of_its_writer_alone(
    name: str, seconds_after_the_kill: float, killed: str, good: bool
) -> None:
    faults = [Fault(t=1000, name=killed)]
    assert orphaned(name, 1000 + seconds_after_the_kill, set(), faults) == good
    if not name.endswith(DRAFT_SUFFIX):
        assert not orphaned(name, 1000 + seconds_after_the_kill, {SESSION}, faults), "its row takes it along"


def test_a_stack_trace_in_a_log_is_found(tmp_path: Path) -> None:
    (tmp_path / "web1.log").write_text("04:22 INFO all is well\n")
    cluster: Any = SimpleNamespace(logs=tmp_path)
    assert stack_traces(cluster, None) == []
    (tmp_path / "web2.log").write_text("Traceback (most recent call last):\nKeyError: 1\n")
    found = check(stack_traces(cluster, None)).findings
    assert [(each.kind, each.detail) for each in found if each.kind is Kind.ERROR] == [
        (Kind.ERROR, "web2.log: 1 stack traces")
    ]
