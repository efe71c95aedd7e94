"""Requests through a trusted proxy: counted by the address that it forwards."""

from __future__ import annotations

import contextlib
import ipaddress

from testkit.raw_http import LIVE, Raw, raw
from testkit.running import StartWeb, until
from tryon.protocol.paths import SESSIONS

PROXY = (ipaddress.ip_network("127.0.0.0/8"),)


def of(address: str, request: bytes) -> bytes:
    return request.replace(b"Host: x", b"Host: x\r\nX-Forwarded-For: " + address.encode())


async def test_forwarded_address_has_its_limit(start_web: StartWeb) -> None:
    """The proxy itself may have any number of connections; each client has its own."""
    web = await start_web(connections_per_address=2, trusted_proxies=PROXY)
    session, token = await web.submit()
    poll = (
        f"GET {SESSIONS}/{session.id}?since=1&wait=20 HTTP/1.1\r\nHost: x\r\nX-Client-Token: {token}\r\n\r\n".encode()
    )
    async with contextlib.AsyncExitStack() as stack:

        async def ask(request: bytes) -> Raw:
            return await stack.enter_async_context(raw(web, request))

        waiting = [await ask(of("192.0.2.1", poll)) for _ in range(2)]
        await until(lambda: len(web.unanswered) == 2)
        status, body = await (await ask(of("192.0.2.1", LIVE))).answer()
        assert status == 429
        assert b'"limit":"connections_per_address"' in body
        assert (await (await ask(of("192.0.2.2", LIVE))).answer())[0] == 200
        await web.begin(session)
        assert [(await one.answer())[0] for one in waiting] == [200, 200]
        assert (await (await ask(of("192.0.2.1", LIVE))).answer())[0] == 200
