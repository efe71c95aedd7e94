"""static/tryon-watch.js in Node, against the real server: the test plays the worker."""

from __future__ import annotations

from typing import Any, Final

import pytest

from server.domain.session import Session
from server.domain.tokens import new_token
from testkit.processes import ROOT
from testkit.proxy import running_proxy
from testkit.running import Web
from tests.static.node_stories import Story, running_story
from tryon.client.watching import WATCH_TRANSPORTS

SCRIPTS: Final = [(ROOT / "static" / name).as_uri() for name in ("tryon.js", "tryon-watch.js")]

WATCH: Final = """
const [, base, token, transport, core, script, ends] = process.argv;
const { TryOn } = await import(core);
const { watchAll } = await import(script);
Math.random = () => 0.01; // a short back-off
const tell = (...news) => console.log(JSON.stringify(news));
const shown = {};
let left = Number(ends);
const watching = watchAll(new TryOn({ base, token }), {
  transports: [transport],
  onEvent: ({ session_id, seq }) => tell("event", session_id, seq, watching.transport),
  onSession: ({ session_id, seq }) => {
    if (seq < (shown[session_id] ?? 0)) tell("back", session_id, seq);
    shown[session_id] = seq;
  },
  onEnded: (id, reason) => {
    tell("ended", id, reason, watching.sessions.map(({ session_id }) => session_id));
    if ((left -= 1) === 0) watching.close();
  },
});
watching.done.catch(({ name, code }) => tell("done", name, code ?? null));
"""
"""Watches over one transport, tells each event and end, and closes after the last."""


class Told:
    """What the script has told so far."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self.seqs: dict[str, list[int]] = {}
        self.ends: list[tuple[str, str]] = []
        self.living: list[str] = []

    async def until(self, what: Any) -> None:
        """Read until ``what``, a function of this, is true."""
        while not what():
            kind, session_id, *news = await self._story.hears()
            assert kind in ("event", "ended"), (kind, session_id, news)
            if kind == "event":
                self.seqs.setdefault(session_id, []).append(news[0])
            else:
                self.ends.append((session_id, news[0]))
                self.living = news[1]


async def run_to_the_end(web: Web, *sessions: Session) -> None:
    for session in sessions:
        await web.complete(await web.begin(session))


@pytest.mark.parametrize("transport", WATCH_TRANSPORTS)
async def test_each_event_of_each_session_comes_once(web: Web, transport: str) -> None:
    """Of sessions that live, of one that is made later, and of one that is erased."""
    token = new_token()
    old, erased = [(await web.submit(token))[0] for _ in range(2)]
    await web.submit()
    async with running_story(WATCH, f"http://127.0.0.1:{web.port}", token, transport, *SCRIPTS, "3") as story:
        told = Told(story)
        await told.until(lambda: len(told.seqs) == 2)
        new, _ = await web.submit(token)
        await told.until(lambda: new.id in told.seqs)
        await run_to_the_end(web, old, new)
        await web.client.delete(f"/api/tryon/sessions/{erased.id}", headers={"Authorization": f"Bearer {token}"})
        await told.until(lambda: len(told.ends) == 3)
        assert told.seqs == {old.id: [1, 2, 3], new.id: [1, 2, 3], erased.id: [1]}
        reason = "erased" if transport == "poll" else "deleted"
        assert sorted(told.ends) == sorted([(old.id, "completed"), (new.id, "completed"), (erased.id, reason)])
        assert told.living == []
        assert await story.hears() == ["done", "AbortError", 20]
        await story.ends()


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_lost_connection_loses_no_event(web: Web, transport: str) -> None:
    """What happens while it is cut is in the next snapshots, of ended sessions too."""
    token = new_token()
    one, two = [(await web.submit(token))[0] for _ in range(2)]
    async with (
        running_proxy(web.port) as proxy,
        running_story(WATCH, f"http://127.0.0.1:{proxy.port}", token, transport, *SCRIPTS, "3") as story,
    ):
        told = Told(story)
        await told.until(lambda: len(told.seqs) == 2)
        claim = await web.begin(one)
        await told.until(lambda: told.seqs[one.id] == [1, 2])
        proxy.cut()
        await web.complete(claim)
        await run_to_the_end(web, two)
        three, _ = await web.submit(token)
        await told.until(lambda: three.id in told.seqs and len(told.ends) == 2)
        await run_to_the_end(web, three)
        await told.until(lambda: len(told.ends) == 3)
        assert told.seqs == {each.id: [1, 2, 3] for each in (one, two, three)}
        assert {reason for _, reason in told.ends} == {"completed"}
        assert await story.hears() == ["done", "AbortError", 20]
        await story.ends()


async def test_refused_client_is_told_why(web: Web) -> None:
    """A malformed token is refused for good."""
    async with running_story(WATCH, f"http://127.0.0.1:{web.port}", "short", "ws", *SCRIPTS, "0") as story:
        assert await story.hears() == ["done", "Problem", "invalid_token"]
        await story.ends()
