"""static/react.js with React 19 in Node, installed as a project does it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from server.domain.stored_files import NewFile
from testkit.running import Web, until
from tests.static.node_stories import running_story

pytestmark = pytest.mark.xdist_group("npm")

PRELUDE: Final = """
import { openAsBlob } from "node:fs";
import { createElement, StrictMode } from "react";
import { renderToString } from "react-dom/server";
import TestRenderer from "react-test-renderer";
import { useTryOn } from "tryon-push/react";

globalThis.IS_REACT_NATIVE_TEST_ENVIRONMENT = true; // as the renderer wants it
const [, base, path] = process.argv;
const photo = await openAsBlob(path);
const tell = (...news) => console.log(JSON.stringify(news));
let shown; // what the hook returned last
let renders = [];
function Screen(options) {
  shown = useTryOn(options);
  const { session, connection, error } = shown;
  const line = [connection, session?.status ?? null, error?.code ?? null].join();
  if (renders.at(-1) !== line) renders.push(line);
  return createElement("p", null, session?.status ?? "idle");
}
const until = async (true_) => {
  while (!true_()) await new Promise((tick) => setTimeout(tick, 5));
};
const screen = (options) => createElement(StrictMode, null, createElement(Screen, options));
"""


async def waiting(web: Web) -> str:
    """Return the id of the one session that waits."""
    (session_id,) = (await web.services.sessions.queue_places.current()).keys()
    return str(session_id)


COMPONENT: Final = """
tell("server", renderToString(screen({ base })), renders.splice(0));
shown = null;
const root = TestRenderer.create(screen({ base }));
await until(() => shown?.tryon);
const { start, cancel, retry, remove, reset, tryon } = shown;
const started = start({ image: photo, params: { size: "M" } });
await until(() => shown.connection === "live");
tell("live");
await until(() => shown.preview);
tell("preview", shown.preview.startsWith(base), shown.session.params);
const ended = await started;
await until(() => shown.session?.terminal);
tell("ended", ended.status, root.toJSON().children, renders.splice(0));

const again = start(photo);
await until(() => shown.session?.status === "created");
await cancel();
const cancelled = await again;
await until(() => shown.session.terminal);
tell("cancelled", cancelled.status, shown.session.status);
const first = shown.session.session_id;
const next = retry();
await until(() => shown.session?.retry_of === first);
const receipt = await remove();
const removed = await next;
await until(() => !shown.session);
tell("removed", receipt.reason, removed, shown.error);

const refused = await start({ inputs: { hat: photo } });
await until(() => shown.error);
tell("refused", refused, shown.error.code, shown.error.part);
reset();
await until(() => shown.error === null);
tell("same functions", shown.start === start && shown.reset === reset && shown.tryon === tryon);

const token = tryon.token;
root.update(screen({ base, token }));
await until(() => shown.tryon !== tryon);
shown.start(photo);
await until(() => shown.session?.status === "created" && shown.connection === "live");
root.unmount();
tell("unmounted", (await tryon.list()).sessions[0].status);
"""


async def test_hook_shows_try_on_to_its_end(web: Web, project: Path, photos: Path) -> None:
    """Rendered on a server, run, cancelled, retried, removed, refused, unmounted."""
    arguments = (f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"))
    claims = web.services.sessions.claims
    async with running_story(PRELUDE + COMPONENT, *arguments, folder=project) as story:
        assert await story.hears() == ["server", "<p>idle</p>", [",,"]]
        assert await story.hears() == ["live"]
        claim = await claims.begin(await waiting(web), worker="test")
        assert claim is not None
        assert await claims.preview(claim, NewFile(b"\x89PNG preview", "image/png", 9, 8))
        await claims.report(claim, 0.5, "rendering")
        assert await story.hears() == ["preview", True, {"size": "M"}]
        await web.complete(claim)
        name, status, text, renders = await story.hears()
        assert (name, status, text) == ("ended", "completed", ["completed"])
        assert renders[0] == ",,"
        assert "uploading,," in renders
        assert "live,processing," in renders
        assert renders[-1] == "finished,completed,"
        assert await story.hears() == ["cancelled", "cancelled", "cancelled"]
        assert await story.hears() == ["removed", "deleted", None, None]
        assert await story.hears() == ["refused", None, "unknown_input", "hat"]
        assert await story.hears() == ["same functions", True]
        assert await story.hears() == ["unmounted", "created"]
        await until(lambda: not web.hub.registry.all())
        await story.ends()


FAILURES: Final = """
Math.random = () => 0.01; // a short back-off
const root = TestRenderer.create(screen({ base: "http://dead.example" }));
await until(() => shown?.tryon);
const away = await shown.start(photo);
await until(() => shown.error);
tell("away", away, shown.error.code, shown.connection);
const still = await shown.retry();
await until(() => shown.error);
tell("still away", still, shown.error.code);
root.update(screen({ base }));
await until(() => shown.error === null);
const started = shown.start(photo);
await until(() => shown.session);
tell("failing", shown.session.session_id);
await started;
await until(() => shown.error);
tell("failed", shown.session.status, shown.error.code, shown.error.detail, shown.error.retryable);
root.unmount();
"""


async def test_hook_tells_what_went_wrong(web: Web, project: Path, photos: Path, dead_url: str) -> None:
    """A server that is not there, and a session that fails."""
    arguments = (f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"))
    failures = FAILURES.replace("http://dead.example", dead_url)
    async with running_story(PRELUDE + failures, *arguments, folder=project) as story:
        assert await story.hears() == ["away", None, "network", None]
        assert await story.hears() == ["still away", None, "network"]
        _, session_id = await story.hears()
        claim = await web.services.sessions.claims.begin(session_id, worker="test")
        assert claim is not None
        assert await web.services.sessions.claims.fail(claim, "person_not_found", "No person.", retryable=False)
        assert await story.hears() == ["failed", "failed", "person_not_found", "No person.", False]
        await story.ends()
