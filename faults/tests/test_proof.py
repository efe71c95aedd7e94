"""Proof that the rows and the soak notice a broken promise, and excuse no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faults.outcome import Attempt, Outcome
from faults.pace import FULL, SCALED, Pace
from faults.promises import Promises
from faults.soak.leftovers import orphaned
from faults.soak.run import stack_traces
from server.adapters.files.local import DRAFT_SUFFIX
from server.chaos.checker import check
from server.chaos.records import Fault
from server.chaos.verdict import Kind, Loss, Sight
from testkit.proxy import subscribes

SESSION = "01a21131-d51b-77d2-b8ef-3f6d3229f0fd"


def promises(pace: Pace = FULL) -> Promises:
    """Return promises for a fault from second 100 to second 110."""
    made = Promises(Outcome(), pace)
    made.fault = (100.0, 110.0)
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
def test_promises_notice_pushes_that_stop(pace: Pace, sights: list[Sight], good: bool) -> None:
    """A push during the fault counts, and must come in time."""
    made = promises(pace)
    made.outcome.sights = sights
    made.pushed_during_fault(2.0)
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
def test_promises_excuse_only_unavailable(loss: Loss, good: bool) -> None:
    """Without a database a client may be refused with "unavailable" alone."""
    made = promises()
    made.outcome.losses[loss] += 1
    made.losses_mean_unavailable()
    assert (not made.outcome.wrong) == good


@pytest.mark.parametrize(("status", "good"), [(200, True), (202, True), (503, True), (500, False), (0, False)])
def test_promises_notice_failed_cancels(status: int, good: bool) -> None:
    """A cancel succeeds or is answered with 503."""
    made = promises()
    made.outcome.cancels[status] += 1
    made.cancels_answered()
    assert (not made.outcome.wrong) == good


def test_promises_notice_unfelt_fault() -> None:
    """An outage that refused and delayed no client was none."""
    made = promises()
    made.outcome.uploads = [Attempt(100, 0.1, 201)]
    made.fault_was_felt(2.0)
    assert made.outcome.wrong
    for felt in (Attempt(100, 3.0, 201), Attempt(100, 0.1, 503)):
        made.outcome.wrong.clear()
        made.outcome.uploads = [felt]
        made.fault_was_felt(2.0)
        assert not made.outcome.wrong


def test_proxy_knows_subscribers_by_command() -> None:
    """The name of a connection does not make it a subscriber."""
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
def test_leftover_file_is_excused_by_killed_writer(
    name: str, seconds_after_the_kill: float, killed: str, good: bool
) -> None:
    """Only the death of the process that wrote a file excuses it."""
    faults = [Fault(t=1000, name=killed)]
    assert orphaned(name, 1000 + seconds_after_the_kill, set(), faults) == good
    if not name.endswith(DRAFT_SUFFIX):
        assert not orphaned(name, 1000 + seconds_after_the_kill, {SESSION}, faults), "its row takes it along"


def test_stack_trace_in_log_is_found(tmp_path: Path) -> None:
    """Each becomes a finding of its own."""
    (tmp_path / "web1.log").write_text("04:22 INFO all is well\n")
    cluster: Any = SimpleNamespace(logs=tmp_path)
    assert stack_traces(cluster, None) == []
    (tmp_path / "web2.log").write_text("Traceback (most recent call last):\nKeyError: 1\n")
    found = check(stack_traces(cluster, None)).findings
    assert [(each.kind, each.detail) for each in found if each.kind is Kind.ERROR] == [
        (Kind.ERROR, "web2.log: 1 stack traces")
    ]
