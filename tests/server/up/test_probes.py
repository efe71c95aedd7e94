"""Questions of `tryon up` to the programs that it starts."""

from __future__ import annotations

from collections.abc import Callable

from server.config.parsing import private_token
from server.config.settings import Config
from server.up.probes import healthy
from testkit.running import running_web, until

TOKEN = "monitoring-monitoring-monitoring"


async def test_probe_reads_health_that_needs_a_token(config: Callable[..., Config]) -> None:
    """A stack whose private paths are closed becomes ready all the same."""
    private = config(private_paths=TOKEN)
    async with running_web(private) as web:
        await web.services.queue.note_worker("worker-1")
        await until(lambda: web.hub.delivers)
        token = private_token(private.private_paths)
        assert await healthy("127.0.0.1", web.port, name="localhost", workers=1, token=token)
        assert not await healthy("127.0.0.1", web.port, name="localhost", workers=1)
    assert [private_token(rule) for rule in (None, "open", "loopback")] == [None] * 3
