"""Shared reads: one statement for many clients, and none that is too old."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from server.adapters.database.reading import MayRead
from server.services import Services
from server.sessions.shared_reads import Reading, SharedReads
from tests.server.sessions.conftest import TOKEN, begin, submit
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status


class Statements:
    """The database's reader, counted; each statement waits for a gate."""

    def __init__(self, services: Services) -> None:
        self._reading = services.database.reader
        self.read: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def many_with_events(self, session_ids: Collection[str], since: int | None, may: MayRead) -> Any:
        """Read as the database does, or raise :attr:`error`."""
        self.read.append(list(session_ids))
        gate = self.gate
        found = await self._reading.many_with_events(session_ids, since, may)
        await gate.wait()
        if self.error is not None:
            raise self.error
        return found


def shared(services: Services) -> tuple[SharedReads, Statements]:
    """Return shared reads over a counted reader."""
    statements: Any = Statements(services)
    return SharedReads(reader=statements, bus=services.bus), statements


def anyone(owner: str) -> bool:
    """Admit every client."""
    return True


def seqs(reading: Reading | None) -> list[int]:
    """Return the seqs of the events that were read."""
    assert reading is not None
    return [event.seq for event in reading.found.events]


async def test_concurrent_reads_share_one_statement(services: Services) -> None:
    """Read for five clients at once; each gets the events after its own seq."""
    reads, statements = shared(services)
    one, other = await submit(services), await submit(services)
    await begin(services, one)
    answers = await asyncio.gather(
        reads.read(one.id, 0, anyone),
        reads.read(one.id, 1, anyone),
        reads.read(one.id, None, anyone),
        reads.read(other.id, 0, anyone),
        reads.read(one.id, 0, lambda owner: owner == TOKEN),
    )
    assert [seqs(answer) for answer in answers[:4]] == [[1, 2], [2], [], [1]]
    assert answers[4] is None, "a stranger"
    assert statements.read == [[one.id, other.id]]


async def test_read_never_joins_an_older_statement(services: Services) -> None:
    """Begin a new statement for a read that was requested while one was running."""
    reads, statements = shared(services)
    session = await submit(services)
    statements.gate.clear()
    early = asyncio.create_task(reads.read(session.id, None, anyone))
    while not statements.read:
        await asyncio.sleep(0)
    await begin(services, session)
    late = asyncio.create_task(reads.read(session.id, None, anyone))
    await asyncio.sleep(0)
    statements.gate.set()
    answer = await late
    assert answer is not None and answer.found.session.status is Status.PROCESSING
    assert await early is not None
    assert statements.read == [[session.id]] * 2


async def test_later_read_does_not_wait_for_a_hanging_statement(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begin the next batch after a while, although the one before is not read yet."""
    monkeypatch.setattr("server.sessions.shared_reads.PATIENCE_SECONDS", 0.02)
    reads, statements = shared(services)
    session = await submit(services)
    statements.gate.clear()
    early = asyncio.create_task(reads.read(session.id, None, anyone))
    while not statements.read:
        await asyncio.sleep(0)
    hanging, statements.gate = statements.gate, asyncio.Event()
    statements.gate.set()
    async with asyncio.timeout(10):
        assert seqs(await reads.read(session.id, 0, anyone)) == [1]
    assert not early.done()
    hanging.set()
    assert await early is not None


async def test_failed_statement_fails_its_batch_only(services: Services) -> None:
    """Raise the database's error to every client of the batch only."""
    reads, statements = shared(services)
    session = await submit(services)
    statements.error = Unavailable()
    failed = await asyncio.gather(*(reads.read(session.id, 0, anyone) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in failed] == [Unavailable] * 3
    statements.error = None
    assert seqs(await reads.read(session.id, 0, anyone)) == [1]


async def test_disconnected_client_spoils_no_batch(services: Services) -> None:
    """Answer the other clients when one of them disconnects during the statement."""
    reads, statements = shared(services)
    session = await submit(services)
    statements.gate.clear()
    leaving, staying = [asyncio.create_task(reads.read(session.id, 0, anyone)) for _ in range(2)]
    while not statements.read:
        await asyncio.sleep(0)
    leaving.cancel()
    statements.gate.set()
    assert seqs(await staying) == [1]
    with pytest.raises(asyncio.CancelledError):
        await leaving
