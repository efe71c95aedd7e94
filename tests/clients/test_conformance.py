"""The Python and the JavaScript client live through the same stories.

Each story runs against the real server of the test's process.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import pytest

from server.config.settings import Config
from server.domain.tokens import new_token
from testkit.proxy import running_proxy
from testkit.running import running_web, until
from tests.clients.drivers import Driver, JavaScriptDriver, Node, PythonDriver, one_node
from tests.clients.stories import STORIES, Scene


@pytest.fixture(scope="module")
async def nodes() -> AsyncIterator[Callable[[], Awaitable[Node]]]:
    """Start one Node for all stories of this process, when the first one asks."""
    async with one_node() as node:
        yield node


AT_ONCE: Final = frozenset({"late_client_learns_what_it_missed-poll", "foreign_session_is_not_found-poll"})
"""Stories over polls that end with the first answer."""


def is_slow(name: str) -> bool:
    """Return whether a story is left out of ``./test``.

    Polls pause for a second or two, and long polls are the third transport of four.
    """
    slow = STORIES[name].slow or not {"long-poll", "poll"}.isdisjoint(STORIES[name].given)
    return slow and name not in AT_ONCE


CASES: Final = tuple(pytest.param(name, marks=pytest.mark.slow) if is_slow(name) else name for name in STORIES)
"""Every story, the slow ones marked."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["python", "javascript"])
async def test_client_lives_through_the_story(
    kind: str, name: str, config: Callable[..., Config], nodes: Callable[[], Awaitable[Node]]
) -> None:
    """Play the story with a client, which shows the same as the other one."""
    chosen = STORIES[name]
    settings = config(lease_seconds=60.0, **chosen.settings)
    async with contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as webs:
        web = await webs.enter_async_context(running_web(settings))
        proxy = await stack.enter_async_context(running_proxy(web.port))
        node = await nodes() if kind == "javascript" else None
        base = f"http://127.0.0.1:{proxy.port}"

        def make_client(token: str | None) -> Driver:
            token = token or new_token()
            client: Driver = PythonDriver(base, token) if node is None else JavaScriptDriver(node, base, token)
            stack.push_async_callback(client.close)
            return client

        async def replace_web() -> None:
            await webs.aclose()
            scene.web = await webs.enter_async_context(running_web(settings))
            proxy.lead_to(scene.web.port)

        async def followed(id: str) -> None:
            await until(lambda: scene.web.hub.followers_of(id))

        scene = Scene(web, proxy, make_client(None), make_client, replace_web, followed)
        await chosen.play(scene, *chosen.given)
