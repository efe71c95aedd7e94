"""The JavaScript client as an npm package, and a server for scripts in Node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from server.config.settings import Config
from testkit.environments import EnvironmentMissing
from testkit.node_packages import install_client
from testkit.plugin import missing
from testkit.processes import reserved_port
from testkit.running import Web, running_web


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder where ``tryon-push``, React and the tools are installed."""
    try:
        return install_client(tmp_path_factory.mktemp("project"))
    except EnvironmentMissing as error:
        missing(str(error))


@pytest.fixture
def dead_url() -> Iterator[str]:
    """Return the URL of a port that is taken, though nothing listens there."""
    with reserved_port() as dead:
        yield f"http://127.0.0.1:{dead.getsockname()[1]}"


@pytest.fixture
async def web(config: Callable[..., Config]) -> AsyncIterator[Web]:
    async with running_web(config(lease_seconds=60)) as running:
        yield running
