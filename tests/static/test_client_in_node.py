"""static/tryon.js in Node, against the real server: the test plays the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from testkit.processes import ROOT
from testkit.running import Web, until
from tests.static.node_stories import running_story

pytestmark = pytest.mark.xdist_group("npm")

PRELUDE: Final = """
import { openAsBlob } from "node:fs";
const [, base, path, script] = process.argv;
const { Problem, TryOn, randomText } = await import(script);
const photo = await openAsBlob(path);
const tell = (...news) => console.log(JSON.stringify(news));
const outcome = (promise) => promise.then(() => "resolved", (error) => `${error.name} ${error.code ?? ""}`.trim());
const tryon = new TryOn({ base });
"""
"""Begins every story: a client, a photo, and ``tell``, which the test reads."""

SCRIPT: Final = (ROOT / "static" / "tryon.js").as_uri()


RUN: Final = """
const run = tryon.run({ image: photo, params: { size: "M" }, onConnection: (...news) => tell("connection", ...news) });
tell("before", run.session);
for await (const session of run) {
  tell("session", session.session_id, session.status);
  if (session.status === "processing") break;
}
const { status, links, params } = await run;
const shared = await tryon.share(run.session);
const { formats, max_image_bytes, demo } = await tryon.limits();
tell("shared", shared.link.startsWith(base), await outcome(fetch(shared.link)), shared.expires_at <= run.session.expires_at);
tell("limits", formats.includes("image/jpeg"), max_image_bytes > 1e6, demo);
tell("end", status, run.session.status, params, links.output.startsWith(base), await outcome(fetch(links.output)));
const late = [];
for await (const session of run) late.push(session.status);
tell("late", late, tryon.token === new TryOn({ base }).token);
"""


async def test_run_is_promise_and_iterator_in_node(web: Web, photos: Path) -> None:
    """Leaving the loop ends nothing; a loop after the end yields the ended session."""
    async with running_story(PRELUDE + RUN, f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"), SCRIPT) as story:
        heard = []
        assert await story.hears() == ["before", None]
        while (news := await story.hears())[0] != "shared":
            heard.append(news)
            if news[0] == "connection" and news[1] == "live":
                (session_id,) = (await web.services.sessions.queue_places.current()).keys()
                claim = await web.services.sessions.claims.begin(session_id, worker="test")
                assert claim is not None
            if news[:1] + news[2:] == ["session", "processing"]:
                assert claim is not None
                await web.complete(claim)
        assert ["connection", "live", "ws"] in heard
        statuses = [news[2] for news in heard if news[0] == "session"]
        assert (statuses[0], statuses[-1]) == ("created", "processing")
        assert {news[1] for news in heard if news[0] == "session"} == {session_id}
        assert news == ["shared", True, "resolved", True]
        assert await story.hears() == ["limits", True, True, False]
        assert await story.hears() == ["end", "completed", "completed", {"size": "M"}, True, "resolved"]
        assert await story.hears() == ["late", ["completed"], False]
        await story.ends()


SIGNALS: Final = """
const aborted = AbortSignal.abort();
const session = await tryon.upload(photo);
const calls = {
  run: (signal) => tryon.run({ image: photo, signal }),
  upload: (signal) => tryon.upload(photo, { signal }),
  read: (signal) => tryon.read(session, { signal }),
  history: (signal) => tryon.history(session, { signal }),
  list: (signal) => tryon.list({ signal }),
  processor: (signal) => tryon.processor({ signal }),
  limits: (signal) => tryon.limits({ signal }),
  cancel: (signal) => tryon.cancel(session, { signal }),
  retry: (signal) => tryon.retry(session, { signal }),
  share: (signal) => tryon.share(session, { signal }),
  remove: (signal) => tryon.remove(session, { signal }),
  follow: (signal) => tryon.follow(session, { signal }).done,
  refresh: (signal) => tryon.follow(session, { signal }).refresh({ signal }),
};
for (const [name, call] of Object.entries(calls)) tell(name, await outcome(call(aborted)));

const asked = [];
let sent;
const count = (url, init) => {
  asked.push(init.method);
  sent = Object.keys(init).filter((name) => init[name] !== undefined); // an edge runtime refuses options of browsers
  return fetch(url, init);
};
const counted = new TryOn({ base, token: tryon.token, fetch: count });
class Refused {
  constructor(url, protocols) {
    asked.push([url.pathname.split("/").at(-1), protocols[0]]);
    setTimeout(() => this.onclose({ code: 4500 }));
  }
  close() {}
}
await counted.list();
tell("injected", asked.splice(0), sent);
const refused = new TryOn({ base, token: tryon.token, WebSocket: Refused });
tell("socket", await outcome(refused.follow(session).done), asked.splice(0));

const stop = new AbortController();
const run = tryon.run({ from: session, signal: stop.signal });
const loop = (async () => {
  for await (const { status } of run) stop.abort(new RangeError(status));
})();
tell("stopped", await outcome(run), await outcome(loop), (await tryon.cancel(run.session)).status);
tell("refused", await outcome(tryon.run({ inputs: { hat: photo } })), await outcome(tryon.share(run.session)));
tell("away", await outcome(new TryOn({ base: "http://dead.example" }).list()), (await tryon.remove(session.session_id)).reason);
const nowhere = new TryOn();
tell("nowhere", await outcome(nowhere.list()), await outcome((async () => nowhere.follow("id"))()));
"""


async def test_calls_take_signal_and_given_network(web: Web, photos: Path, dead_url: str) -> None:
    """An aborted call sends nothing; a run ends with the reason of its signal."""
    arguments = (f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"), SCRIPT)
    async with running_story(PRELUDE + SIGNALS.replace("http://dead.example", dead_url), *arguments) as story:
        for _ in range(13):
            name, ended = await story.hears()
            assert ended == "AbortError 20", name
        await until(lambda: not web.hub.registry.all())
        assert await story.hears() == ["injected", ["GET"], ["method", "headers"]]
        assert await story.hears() == ["socket", "Problem closed_4500", [["ws", "tryon.v1"]]]
        assert await story.hears() == ["stopped", "RangeError", "RangeError", "cancelled"]
        assert await story.hears() == ["refused", "Problem unknown_input", "Problem not_completed"]
        assert await story.hears() == ["away", "Problem network", "deleted"]
        assert await story.hears() == ["nowhere", "TypeError ERR_INVALID_URL", "TypeError ERR_INVALID_URL"]
        await story.ends()


CUT: Final = """
Math.random = () => 0.01; // a short back-off
const keys = [];
const cut = async (url, init) => {
  const answer = await fetch(url, init);
  if (init.method === "POST" && keys.push(init.headers["Idempotency-Key"]) < 3) throw new TypeError("cut");
  return answer;
};
const run = new TryOn({ base, token: tryon.token, fetch: cut }).run({ image: photo });
const statuses = [];
for await (const { status, session_id } of run) {
  if (statuses.push(status) > 1) continue;
  tell(session_id);
  await run;
}
tell(statuses, keys.length, new Set(keys).size, (await tryon.list()).sessions.length);
"""


async def test_run_repeats_an_upload_without_an_answer(web: Web, photos: Path) -> None:
    """It makes one session; a loop that is slow skips to the newest."""
    async with running_story(PRELUDE + CUT, f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"), SCRIPT) as story:
        (session_id,) = await story.hears()
        claim = await web.services.sessions.claims.begin(session_id, worker="test")
        assert claim is not None
        await web.complete(claim)
        assert await story.hears() == [["created", "completed"], 3, 1, 1]
        await story.ends()


TRANSPORTS: Final = """
const { WebSocket } = await import("ws");
delete globalThis.WebSocket; // as in Node 20
const given = new TryOn({ base, WebSocket });
const plain = new TryOn({ base, token: given.token });
const session = await given.upload(photo);
const seqs = [[], [], [], [], []];
const onEvent = (number) => ({ seq }) => seqs[number].push(seq);
const followings = [
  given.follow(session, { onEvent: onEvent(0) }),
  plain.follow(session, { onEvent: onEvent(1) }),
  ...["sse", "long-poll", "poll"].map((name, at) => plain.follow(session, { transports: [name], onEvent: onEvent(at + 2) })),
];
const transports = () => followings.map(({ transport }) => transport);
while (transports().includes(null)) await new Promise((tick) => setTimeout(tick, 5));
tell(session.session_id, transports());
const ended = await Promise.all(followings.map(({ done }) => done));
tell(ended.map(({ status }) => status), seqs);
tell(ended.every(({ links }) => links.output.startsWith(base)), ended.some((session) => "missed" in session));
"""


async def test_each_transport_works_in_node(web: Web, project: Path, photos: Path) -> None:
    """A WebSocket class from a package; without one, the best of the others."""
    arguments = (f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"), SCRIPT)
    async with running_story(PRELUDE + TRANSPORTS, *arguments, folder=project) as story:
        session_id, transports = await story.hears()
        assert transports == ["ws", "sse", "sse", "long-poll", "poll"]
        claim = await web.services.sessions.claims.begin(session_id, worker="test")
        assert claim is not None
        await web.complete(claim)
        assert await story.hears() == [["completed"] * 5, [[1, 2, 3]] * 5]
        assert await story.hears() == [True, False]
        await story.ends()
