"""A web process whose Redis vanishes without a word: no RST, no answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from server.config.settings import Config
from server.domain.stored_files import NewFile
from server.services import open_services
from testkit.fixtures import StartValkey
from testkit.proxy import running_proxy
from testkit.running import running_web, until

MakeConfig = Callable[..., Config]


@pytest.mark.slow
async def test_web_process_outlives_a_vanished_redis(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Deliver transitions, let clients join, recover whole, and stop within seconds."""
    valkey = start_valkey(tcp=True)
    async with (
        running_proxy(valkey.port) as proxy,
        open_services(config(redis_url=valkey.tcp_url, lease_seconds=60)) as others,
    ):
        async with running_web(config(redis_url=f"redis://127.0.0.1:{proxy.port}/0", lease_seconds=60)) as web:
            session, token = await web.submit()
            async with web.follow(session.id, token) as client:
                await client.next("snapshot")
                await until(lambda: web.hub.delivers)
                await asyncio.gather(*(web.services.bus.publish(f"s{n}", b"x") for n in range(8)))
                assert proxy.black_hole() > 3

                begun = time.monotonic()
                claim = await others.sessions.claims.begin(session.id, worker="test")
                assert claim is not None
                assert (await client.next("event", seconds=60))["seq"] == 2
                assert time.monotonic() - begun < 40  # 4 on an idle machine, 5 promised
                late, late_token = await web.submit()
                async with web.follow(late.id, late_token) as other:
                    await other.next("snapshot", seconds=10)

                await until(lambda: not web.hub.delivers, seconds=20)
                proxy.mend()
                await until(lambda: web.hub.delivers, seconds=20)
                taken = [web.services.bus.publish(f"s{n}", b"x") for n in range(8)]
                assert all(await asyncio.gather(*taken)), "the dead connections were given up together"
                assert await others.sessions.claims.complete(claim, [NewFile(b"\xff\xd8\xff\xe0 result")])
                assert (await client.next("event"))["seq"] == 3
            proxy.black_hole()
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 30  # 3 on an idle machine, 5 promised
