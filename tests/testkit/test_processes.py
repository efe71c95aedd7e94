"""Ports of the tests' servers."""

from __future__ import annotations

import socket

import pytest

from testkit.processes import free_port, run_python

TAKES = "from testkit.processes import free_port; print(*(free_port(among=range(12_000, 12_040)) for _ in range(15)))"


async def test_port_is_given_to_one_test_alone() -> None:
    """Neither this process nor another gets it again, though nothing listens yet."""
    among = range(12_000, 12_040)
    own = {free_port(among=among) for _ in range(15)}
    assert len(own) == 15
    status, out, err = await run_python("-c", TAKES, seconds=60)
    assert status == 0, err
    others = {int(port) for port in out.split()}
    assert len(others) == 15 and not own & others


def test_port_whose_companion_is_taken_is_not_given() -> None:
    """A server that opens a second port at a fixed distance gets both."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # by another program, which claims no port
        companion = taken.getsockname()[1]
        assert free_port(1, among=range(companion - 1, companion + 50)) > companion
        with pytest.raises(RuntimeError, match="no port"):
            free_port(1, among=[companion - 1])
