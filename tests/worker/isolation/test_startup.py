"""When a failed start is tried again, and when it is final."""

from __future__ import annotations

import asyncio

import pytest

from server.config.settings import Config, ConfigError
from tryon.processor import Info
from worker.isolation.errors import NotStarted, NotStartedAgain
from worker.isolation.pool import ProcessPool
from worker.isolation.startup import START_TRIES, Startup


class Case:
    """A startup, and the errors that it has reported."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.closing = asyncio.Event()
        self.startup = Startup("own:Model", on_error=self.errors.append, closing=self.closing)


@pytest.fixture
async def case() -> Case:
    return Case()


async def test_failures_in_a_row_are_counted(case: Case) -> None:
    """The last try in a row is final; a ready processor ends the row."""
    tries = [case.startup.may_retry() for _ in range(START_TRIES)]
    assert tries == [True] * (START_TRIES - 1) + [False]
    case.startup.note_ready(Info(name="own"))
    assert case.startup.may_retry()


async def test_nothing_is_retried_while_closing(case: Case) -> None:
    """A worker that stops starts no process any more."""
    case.closing.set()
    assert not case.startup.may_retry()


@pytest.mark.parametrize("error", [ConfigError("TRYON_PROCESSOR: no"), RuntimeError("no\nGPU")])
async def test_first_processor_that_fails_is_wrong_setting(case: Case, error: Exception) -> None:
    """No processor was ever made: the worker refuses to start, in one line."""
    given = case.startup.give_up(error)
    assert isinstance(given, ConfigError)
    assert str(given).startswith("TRYON_PROCESSOR")
    assert "\n" not in str(given)
    assert (case.startup.error, case.errors) == (None, [])


async def test_later_failure_is_reported_once(case: Case) -> None:
    """Sessions fail as not started, with the reason as the cause."""
    case.startup.note_made()
    first, second = RuntimeError("no weights"), RuntimeError("again")
    given = case.startup.give_up(first)
    assert isinstance(given, NotStarted)
    assert given.__cause__ is first
    assert case.startup.give_up(second) is given is case.startup.error
    assert case.errors == [first]


async def test_failure_after_ready_is_told_apart(case: Case) -> None:
    """A processor that has worked is no wrong setting; the reason is the cause."""
    case.startup.note_ready(Info(name="own"))
    reason = RuntimeError("no memory")
    case.startup.give_up(reason)
    [error] = case.errors
    assert isinstance(error, NotStartedAgain)
    assert (str(error), error.__cause__) == ("no memory", reason)


async def test_failure_while_closing_is_not_reported(case: Case) -> None:
    """Processes that end because the worker stops are no failure."""
    case.startup.note_made()
    case.closing.set()
    assert isinstance(case.startup.give_up(RuntimeError("killed")), NotStarted)
    assert (case.startup.error, case.errors) == (None, [])


async def test_pool_that_can_start_none_describes_none() -> None:
    """A chain passes it over, though a processor of it was ready once."""
    pool = ProcessPool(Config())
    pool._startup.note_ready(Info(name="mock"))
    assert (await pool.described()).name == "mock"
    pool._startup.give_up(RuntimeError("no memory"))
    with pytest.raises(NotStarted):
        await pool.described()
    await pool.close()


async def test_pool_stays_built_when_its_last_child_has_failed() -> None:
    """The worker, which waits for its pools in turn, goes on with the others."""
    pool = ProcessPool(Config())
    pool._startup.note_made()
    pool._startup.give_up(RuntimeError("no weights"))
    await pool.built()
    await pool.close()
