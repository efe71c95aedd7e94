"""Tokens that a function gives to static/tryon.js, against the real server in Node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from server.config.settings import Config
from testkit.issuers import issuing
from testkit.running import running_web
from tests.static.node_stories import running_story
from tests.static.test_client_in_node import PRELUDE, SCRIPT

STORY: Final = """
const [late, good, other] = process.argv.slice(4);
const login = (...given) => {
  const asked = [];
  const token = () => Promise.resolve(asked[asked.push(given.shift() ?? good) - 1]);
  return { asked, tryon: new TryOn({ base, token }) };
};
const first = login(late);
tell("before", first.tryon.token);
const session = await first.tryon.upload(photo);
const { sessions } = await first.tryon.list();
tell(first.asked.length, sessions.length, first.tryon.token === good);
const never = login(late, late, late);
tell(await outcome(never.tryon.list()), never.asked.length);
const gone = login(late, late, late);
tell(await outcome(gone.tryon.follow(session, { transports: ["ws"] }).done), gone.asked.length);
const failed = new TryOn({ base, token: async () => { throw new Error("signed out"); } });
tell(await outcome(failed.list()));
for (const transport of ["ws", "sse", "long-poll", "poll"]) {
  const renewed = login(late, other);
  const following = renewed.tryon.follow(session, { transports: [transport] });
  while (following.transport === null) await new Promise((tick) => setTimeout(tick, 5));
  tell(transport, following.transport, renewed.asked.length);
  following.done.catch(() => {});
  following.close();
}
"""


async def test_function_is_asked_again_once(config: Callable[..., Config], photos: Path) -> None:
    """Calls and each transport renew an expired token once; two are the answer."""
    async with issuing() as issuer, running_web(config(**issuer.settings, anonymous=False)) as web:
        tokens = (issuer.token("ann", exp=1000), issuer.token("ann"), issuer.token("ann", jti="2"))
        arguments = (f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"), SCRIPT, *tokens)
        async with running_story(PRELUDE + STORY, *arguments) as story:
            assert await story.hears() == ["before", ""]
            assert await story.hears() == [2, 1, True]
            assert await story.hears() == ["Problem invalid_token", 2]
            assert await story.hears() == ["Problem invalid_token", 2]
            assert await story.hears() == ["Error"]
            for transport in ("ws", "sse", "long-poll", "poll"):
                assert await story.hears() == [transport, transport, 2]
            await story.ends()
