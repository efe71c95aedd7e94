"""The true Gradio app that these tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from testkit.environments import EnvironmentMissing
from testkit.gradio_app import GradioServer
from testkit.plugin import missing


@pytest.fixture(scope="session")
async def gradio_app() -> AsyncIterator[GradioServer]:
    """Start one app for all tests of this process."""
    server = GradioServer()
    try:
        yield await server.start()
    except EnvironmentMissing as error:
        missing(f"Gradio ({error})")
    finally:
        await server.close()
