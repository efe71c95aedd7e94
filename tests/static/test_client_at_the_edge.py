"""static/tryon.js in an edge runtime: workerd, which runs Cloudflare's workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from testkit.node_packages import node_packages
from testkit.photos import photo
from testkit.processes import ROOT, free_port, listening, spawn
from testkit.running import Web

pytestmark = pytest.mark.xdist_group("npm")

MODULES: Final = ("tryon.js", "tryon-lower.js", "tryon-progress.js", "tryon-tabs.js")

CONFIG: Final = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "story", worker = (
      modules = [%(modules)s],
      compatibilityDate = "2026-01-01",
      globalOutbound = "loopback",
    )),
    (name = "loopback", network = (allow = ["local", "private"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:%(port)d", http = (), service = "story")],
);
"""

STORY: Final = """
import { Problem, TryOn } from "./tryon.js";

async function story(request, tell) {
  const base = request.headers.get("x-base");
  const tryon = new TryOn({ base });
  const { formats } = await tryon.limits();
  tell("limits", formats.includes("image/jpeg"));
  const image = new Blob([await request.arrayBuffer()]);
  for (const transport of ["ws", "sse"]) {
    const seqs = [];
    const onEvent = ({ seq }) => seqs.push(seq);
    const run = tryon.run({ image, params: { size: "M" }, transports: [transport], onEvent });
    for await (const { session_id, status } of run) tell("session", transport, session_id, status);
    const { links, params } = await run;
    const picture = await fetch(new URL(links.output, base));
    tell("ended", transport, seqs, params, picture.status);
  }
  const refusal = await tryon.upload(new Blob(["no picture"])).catch((error) => error);
  tell("refused", refusal instanceof Problem, refusal.code, refusal.part);
  const aborted = await tryon.list({ signal: AbortSignal.abort() }).catch((error) => error);
  tell("aborted", aborted.name);
}

export default {
  fetch(request, env, context) {
    const { readable, writable } = new TransformStream();
    const writer = writable.getWriter();
    const tell = (...news) => writer.write(new TextEncoder().encode(JSON.stringify(news) + "\\n"));
    const failed = (error) => tell("error", error.stack ?? String(error));
    context.waitUntil(story(request, tell).catch(failed).finally(() => writer.close()));
    return new Response(readable);
  },
};
"""


@pytest.fixture
async def edge(project: Path, tmp_path: Path) -> AsyncIterator[str]:
    """Run the story as a worker at the edge; yield its address."""
    for name in MODULES:
        shutil.copy(ROOT / "static" / name, tmp_path)
    (tmp_path / "story.js").write_text(STORY)
    modules = ", ".join(f'(name = "{name}", esModule = embed "{name}")' for name in ("story.js", *MODULES))
    (workerd,) = (node_packages() / "@cloudflare").glob("workerd-*/bin/workerd")
    port = free_port()
    (tmp_path / "config.capnp").write_text(CONFIG % {"modules": modules, "port": port})
    process = await spawn(str(workerd), "serve", "config.capnp", folder=tmp_path, piped=True)
    try:
        await listening(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_client_runs_at_the_edge(web: Web, edge: str) -> None:
    """Upload, follow over WebSocket and event stream; refusals and aborts are typed."""
    told: list[list[object]] = []
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False, timeout=30) as client:
        headers = {"X-Base": f"http://127.0.0.1:{web.port}"}
        async with client.stream("POST", edge, headers=headers, content=photo()) as answer:
            async for line in answer.aiter_lines():
                told.append(news := json.loads(line))
                if news[0] == "session" and news[3] == "created":
                    claim = await web.services.sessions.claims.begin(news[2], worker="test")
                    if claim is not None:
                        await web.complete(claim)
    rest = [news for news in told if news[0] != "session"]
    assert rest == [
        ["limits", True],
        ["ended", "ws", [1, 2, 3], {"size": "M"}, 200],
        ["ended", "sse", [1, 2, 3], {"size": "M"}, 200],
        ["refused", True, "unsupported_image", "image"],
        ["aborted", "AbortError"],
    ], told
