"""A hub that sweeps only when the test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.services import Services, open_services
from server.web.push.hub import Hub
from tests.server.web.push.kit import (
    MakeConfig,
    make_hub,
    without_sweeps,
)


@pytest.fixture
async def services(config: MakeConfig) -> AsyncIterator[Services]:
    async with open_services(config(sweep_seconds=60.0)) as services:
        yield services


@pytest.fixture
async def hub(services: Services) -> AsyncIterator[Hub]:
    """Yield a hub that is connected and does not sweep by itself for a minute."""
    hub = make_hub(services)
    async with hub.running():
        await without_sweeps(hub)
        yield hub
