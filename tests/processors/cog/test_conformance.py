"""The processor `cog` is a processor: here, and in the sandbox of a worker's child."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.processors.cog.serving import CogProcess, running_cog
from tryon.processor import Processor
from tryon.processor.conformance import ProcessorConformance
from worker.isolation.confined import Confined
from worker.processors.cog import CogProcessor
from worker.processors.cog import server as cog_server

pytestmark = pytest.mark.xdist_group("cog")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CogProcess]:
    """Run one server for all tests."""
    async with running_cog(tmp_path_factory.mktemp("conformance")) as running:
        yield running


class _Cog(ProcessorConformance):
    server: CogProcess

    @pytest.fixture(autouse=True)
    async def idle(self, server: CogProcess) -> None:
        """Wait until the server has ended what the test before has left running."""
        type(self).server = server
        await server.reaches("READY")

    @property
    def options(self) -> dict[str, object]:
        """Return the options; one run at a time, as the server does."""
        return {"url": self.server.url, "fixed": {"seconds": 0.3}, "concurrency": 1}


class TestCog(_Cog):
    """The processor in the process of the tests."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cog_server, "OVERTAKEN_SECONDS", (0.01,))

    def make(self) -> Processor:
        return CogProcessor(**self.options)


@pytest.mark.slow
class TestConfinedCog(_Cog):
    """The processor in a child with its sandbox: the network is all that it needs."""

    stop_seconds = 5.0

    def make(self) -> Processor:
        return Confined("worker.processors.cog:CogProcessor", **self.options)
