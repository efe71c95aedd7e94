"""The network for users keeps the port's contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.tryon.client.network_contract import NetworkContract, OpenNetwork
from tryon.client.http import HttpNetwork
from tryon.client.network import Network


class TestHttpNetwork(NetworkContract):
    """The contract, by httpx and websockets."""

    @pytest.fixture
    def open_network(self) -> OpenNetwork:
        @asynccontextmanager
        async def opened(url: str) -> AsyncIterator[Network]:
            network = HttpNetwork(url, trust_env=False)
            try:
                yield network
            finally:
                await network.close()

        return opened


@pytest.mark.parametrize("url", ["", "tryon.example", "ftp://tryon.example", "http://"])
def test_url_of_another_kind_is_refused(url: str) -> None:
    """Name the address that cannot be right."""
    with pytest.raises(ValueError, match="is not an address like"):
        HttpNetwork(url)
