"""How many streams there may be."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

import pytest

from server.config.settings import Config
from server.web.transports.connection_limits import ConnectionLimits


@pytest.fixture
def soft_limit() -> Iterator[Callable[[int], None]]:
    """Set how many files this process may have open, until the end of the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def set_limit(files: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))

    yield set_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def places(config: Config) -> int:
    """So many are taken until it is full."""
    room, taken = ConnectionLimits(config), 0
    while not room.full:
        room.take(f"address {taken}")
        taken += 1
    return taken


def test_a_process_takes_as_many_streams_as_it_is_told(config: Callable[..., Config]) -> None:
    assert places(config(sockets_per_process=7)) == 7


def test_streams_leave_512_files_to_everything_else(
    config: Callable[..., Config], soft_limit: Callable[[int], None]
) -> None:
    soft_limit(600)
    assert places(config(sockets_per_process=20_000)) == 600 - 512
    assert places(config(sockets_per_process=50)) == 50
