"""Image pools for the tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from server.adapters.imaging.pool import Imaging
from server.domain.images import Limits
from tests.server.adapters.imaging.pools import (
    FAULTY,
    SMALL,
    Gate,
    Start,
)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start pools whose decoder obeys the photo; close all of them in the end."""
    async with contextlib.AsyncExitStack() as stack:

        def begin(limits: Limits = SMALL, *, program: Any = FAULTY, **options: Any) -> Imaging:
            imaging = Imaging(limits, program=program, **options)
            stack.push_async_callback(imaging.close)
            return imaging

        yield begin


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate
