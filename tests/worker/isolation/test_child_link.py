"""The table of transitions: the messages that a child may send in each state."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from typing import get_args

import pytest

from testkit.jobs import job_of
from tests.worker.isolation.sessions import LINUX
from tryon.processor import Info
from worker.isolation.child_link import TRANSITIONS, Action, ChildLink, State
from worker.isolation.messages import (
    BadMessage,
    Cancelled,
    Checkpoint,
    Done,
    Failed,
    FromChild,
    Inbox,
    Log,
    LostFiles,
    Made,
    Preview,
    Raised,
    Ready,
    Refused,
    Report,
    Run,
    StartFailed,
    Usage,
    Warming,
    send,
)
from worker.isolation.session_run import MAX_WAITING, SessionRun, Work

MESSAGES: dict[type, FromChild] = {
    Refused: Refused("no such model"),
    Warming: Warming(),
    StartFailed: StartFailed("no weights"),
    Ready: Ready(Info(name="faulty")),
    Report: Report(number=1, progress=0.5, stage="rendering", eta_seconds=1.0),
    Preview: Preview(1, "image/png"),
    Usage: Usage(number=1, credits=2.5),
    Checkpoint: Checkpoint(1, "{}"),
    Log: Log(30, "a.library", "hot", None),
    Done: Done(number=1, left_over=False, outputs=[]),
    Failed: Failed(number=1, left_over=False, code="no_person", message=None, retryable=None, requeue=False),
    Raised: Raised(number=1, left_over=False, trace="ValueError"),
    Cancelled: Cancelled(number=1, left_over=False),
}


@pytest.fixture
async def link() -> AsyncIterator[ChildLink]:
    """Make a child without a process."""
    link = ChildLink()
    link.connect(lambda child: None).close()
    yield link
    link.disconnect()


def in_state(link: ChildLink, state: State) -> ChildLink:
    link.state = state
    if state is State.BUSY:
        link.runs = {1: SessionRun(1, Work(job_of()))}
    return link


def test_messages_here_are_all_messages() -> None:
    """The tests below try every message that a child can send."""
    assert set(MESSAGES) == set(get_args(FromChild))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("message", MESSAGES.values(), ids=lambda message: type(message).__name__)
async def test_message_without_row_breaks_off(link: ChildLink, state: State, message: FromChild) -> None:
    """A message is in the table, comes too late to matter, or breaks the protocol."""
    row = TRANSITIONS.get((state, type(message)))
    in_state(link, state)._files = [os.open(os.devnull, os.O_RDONLY)] if isinstance(message, Preview) else []
    action = link.take(message)
    for run in link.runs.values():
        run.close()
    if row is not None:
        assert (action, link.state) == row
    else:
        assert (action, link.state) == (Action.IGNORE if state is State.GONE else Action.BREAK_OFF, state)


async def test_child_becomes_ready_after_warming(link: ChildLink) -> None:
    """Sessions that wait learn that the processor is made, then that it is ready."""
    assert link.take(Warming()) is Action.NOTE_MADE
    assert (link.built.done(), link.ready.done()) == (True, False)
    assert link.take(MESSAGES[Ready]) is Action.NOTE_READY
    assert (link.ready.done(), link.state) == (True, State.READY)


@pytest.mark.parametrize("state", [State.STARTING, State.WARMING])
@pytest.mark.parametrize("kind", [Refused, StartFailed])
async def test_start_that_fails_gives_up(link: ChildLink, state: State, kind: type) -> None:
    """Without a processor the child is given up, also where it fails unusually late."""
    assert in_state(link, state).take(MESSAGES[kind]) is Action.GIVE_UP
    assert link.state is state


async def test_repeated_warming_is_harmless(link: ChildLink) -> None:
    """A child may say again that its processor was made."""
    assert [link.take(Warming()), link.take(Warming())] == [Action.NOTE_MADE] * 2
    assert (link.state, link.built.done(), link.ready.done()) == (State.WARMING, True, False)


async def test_answer_to_another_run_breaks_off(link: ChildLink) -> None:
    """An answer names its run: one to another run is not believed."""
    [run] = in_state(link, State.BUSY).runs.values()
    assert link.take(Done(number=2, left_over=False, outputs=[])) is Action.BREAK_OFF
    assert run.answer is None


@pytest.mark.parametrize(
    "message", [Preview(1, "image/png"), Done(number=1, left_over=False, outputs=[Made("a", "b")])]
)
async def test_message_without_its_files_breaks_off(link: ChildLink, message: FromChild) -> None:
    """A picture that came without its descriptor is not believed."""
    assert in_state(link, State.BUSY).take(message) is Action.BREAK_OFF


async def test_words_of_ended_run_are_dropped(link: ChildLink) -> None:
    """A run that was given up may still say something: nothing hears it."""
    in_state(link, State.BUSY)._files = [os.open(os.devnull, os.O_RDONLY)]
    assert link.take(Preview(2, "image/png")) is Action.HEAR
    assert link._files == []


async def test_flood_of_checkpoints_breaks_off(link: ChildLink) -> None:
    """A child that waits for no answer to its checkpoints is not trusted."""
    in_state(link, State.BUSY)
    actions = [link.take(Checkpoint(1, "{}")) for _ in range(MAX_WAITING + 1)]
    assert actions == [Action.HEAR] * MAX_WAITING + [Action.BREAK_OFF]


async def test_first_answer_counts() -> None:
    """A second answer to the same run changes nothing."""
    link = in_state(ChildLink(), State.BUSY)
    [run] = link.runs.values()
    link.take(MESSAGES[Done])
    link.take(MESSAGES[Failed])
    assert run.answer is MESSAGES[Done]
    link.take_run(run)
    assert (link.state, link.runs) == (State.READY, {})


async def test_job_reaches_child_with_its_files() -> None:
    """A job goes out with a descriptor of each input."""
    link = ChildLink()
    theirs = link.connect(lambda child: None)
    link.state = State.READY
    run = SessionRun(7, Work(job_of(garment=b"a garment", params={"fit": "loose"})))
    try:
        with theirs:
            link.begin(run)
            [message] = Inbox(Run).take(theirs.recv(65536))
        assert (message.number, message.session_id, message.params) == (7, "s1", '{"fit": "loose"}')
        assert [(each.role, each.bytes) for each in message.inputs] == [("person", 7), ("garment", 9)]
        assert len(run.files) == 2
        assert link.state is State.BUSY
    finally:
        run.close()
        link.disconnect()


async def test_job_is_refused_when_child_has_ended() -> None:
    """A child that ended before its job came leaves its state as it was."""
    link = ChildLink()
    link.connect(lambda child: None).close()
    link.state = State.READY
    run = SessionRun(1, Work(job_of()))
    try:
        assert not link.begin(run)
        assert link.state is State.READY
        assert not link.leave()
    finally:
        run.close()
        link.disconnect()


@LINUX
async def test_files_without_room_are_lost() -> None:
    """Descriptors that this process cannot take are told apart from bad messages."""
    link = ChildLink()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with link.connect(lambda child: None) as theirs:
        send(theirs, MESSAGES[Preview], [theirs.fileno()])
        os.close(lowest := os.dup(theirs.fileno()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            with pytest.raises(LostFiles):
                link.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            link.disconnect()


async def test_messages_are_read_whole() -> None:
    """Half a message waits for the rest; a closed connection is an error."""
    link, heard = ChildLink(), asyncio.Event()
    theirs = link.connect(lambda child: heard.set())
    try:
        assert link.receive() is None
        send(theirs, MESSAGES[Ready])
        theirs.send(b"\0\0")
        await asyncio.wait_for(heard.wait(), 5)
        assert link.receive() == [MESSAGES[Ready]]
        theirs.send(b"\0\x05hello")
        with pytest.raises(BadMessage):
            link.receive()
        theirs.close()
        with pytest.raises(ConnectionError):
            link.receive()
    finally:
        theirs.close()
        link.disconnect()
