"""static/react.js while its component is hidden, and answers that come late."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from testkit.running import Web
from tests.static.node_stories import running_story
from tests.static.test_react import PRELUDE

pytestmark = pytest.mark.xdist_group("npm")

ROOM: Final = """
import { Activity } from "react";
let closed = 0;
let deaf = 0; // further sockets to which nothing comes
function Socket(url, protocols) {
  if (deaf-- > 0) return { close: () => (closed += 1) };
  const socket = new WebSocket(url, protocols);
  const { close } = socket;
  socket.close = () => {
    closed += 1;
    close.call(socket);
  };
  return socket;
}
let held = null; // { call, release }: an answer to this call waits
const fetched = async (url, init) => {
  const answer = await fetch(url, init);
  if (held && `${init.method} ${url.pathname}`.match(held.call)) await new Promise((release) => (held.release = release));
  return answer;
};
const room = (mode) => createElement(Activity, { mode }, screen({ base, WebSocket: Socket, fetch: fetched }));
const root = TestRenderer.create(room("visible"));
await until(() => shown?.tryon);
const pause = async (meanwhile = () => {}) => {
  const before = closed;
  root.update(room("hidden"));
  await until(() => closed > before);
  await meanwhile();
  root.update(room("visible"));
};
const seqs = [];
const onEvent = ({ seq }) => seqs.push(seq);
"""

PAUSES: Final = """
const made = await (await fetch(`${base}/api/tryon/sessions`, { method: "POST", body: await form() })).json();
const ticket = new URL(made.links.ws, base).searchParams.get("ticket");

deaf = 1;
void shown.follow(made.session_id, { ticket, onEvent });
await until(() => shown.connection === "connecting");
await pause();
await until(() => shown.session?.status === "created" && shown.connection === "live");
tell("followed", made.session_id, seqs, shown.error);
await until(() => shown.session.status === "processing");
await pause(() => tell("hidden"));
await until(() => shown.session.terminal);
tell("ended", shown.session.status, seqs.splice(0), shown.error, shown.connection);

deaf = 1;
void shown.start({ image: photo, onEvent });
await until(() => shown.session?.status === "created");
await pause();
await until(() => shown.connection === "live");
tell("started", shown.session.session_id, seqs, (await shown.tryon.list()).sessions.length);
await until(() => shown.session.terminal);
tell("ended", shown.session.status, seqs);
root.unmount();

async function form() {
  const body = new FormData();
  body.append("image", photo, "photo.jpg");
  return body;
}
"""


async def test_hidden_hook_goes_on_with_its_options(web: Web, project: Path, photos: Path) -> None:
    """Keep ticket and callback, before the first frame too; show each event once."""
    arguments = (f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"))
    claims = web.services.sessions.claims
    async with running_story(PRELUDE + ROOM + PAUSES, *arguments, folder=project) as story:
        name, session_id, seqs, error = await story.hears()
        assert (name, seqs, error) == ("followed", [1], None)
        claim = await claims.begin(session_id, worker="test")
        assert claim is not None
        assert await story.hears() == ["hidden"]
        await web.complete(claim)
        assert await story.hears() == ["ended", "completed", [1, 2, 3], None, "finished"]
        name, session_id, seqs, count = await story.hears()
        assert (name, seqs, count) == ("started", [1], 1)
        claim = await claims.begin(session_id, worker="test")
        assert claim is not None
        await web.complete(claim)
        assert await story.hears() == ["ended", "completed", [1, 2, 3]]
        await story.ends()


LATE: Final = """
const { start, cancel, retry, remove } = shown;
void start(photo);
await until(() => shown.session?.status === "created");
const first = shown.session.session_id;
await cancel();
await until(() => shown.session.terminal);
held = { call: /POST .*retry/ };
const retried = retry();
await until(() => held.release);
void start(photo);
await until(() => shown.session?.status === "created" && shown.connection === "live");
const second = shown.session.session_id;
held.release();
tell("retried", await retried, second !== first, shown.session.session_id === second);

held = { call: /DELETE/ };
let gone;
void start({ image: photo, onGone: (code) => (gone = code) });
await until(() => ![undefined, second].includes(shown.session?.session_id) && shown.connection === "live");
renders = [];
const removed = remove();
await until(() => gone && held.release);
held.release();
tell("removed", (await removed).reason, gone);
await until(() => !shown.session);
tell("shown", shown.error, renders.filter((line) => line.includes("deleted")));
root.unmount();
"""


async def test_late_answers_change_nothing_newer(web: Web, project: Path, photos: Path) -> None:
    """A retry that a new start has overtaken; a push that overtakes a removal."""
    arguments = (f"http://127.0.0.1:{web.port}", str(photos / "photo.jpg"))
    async with running_story(PRELUDE + ROOM + LATE, *arguments, folder=project) as story:
        assert await story.hears() == ["retried", None, True, True]
        assert await story.hears() == ["removed", "deleted", "deleted"]
        assert await story.hears() == ["shown", None, []]
        await story.ends()
