"""What a person and an operator see of each processor, through a whole installation."""

from __future__ import annotations

import asyncio

import psutil

from tests.processors.conftest import Stage
from tests.processors.product import WAIT_SECONDS
from tryon.protocol.paths import SESSIONS

LONG_SECONDS = 60.0
"""Of a run that is stopped before its end."""
SHORT_SECONDS = 5.0
"""Of a run that loses its worker and is begun again."""


async def test_session_completes_with_pushes(stage: Stage) -> None:
    """An upload ends with pictures on the screen; stages and previews come before."""
    product = stage.product
    session_id = await product.upload(stage.opened.params(0.5))
    async with product.watching(session_id) as watcher:
        completed = await watcher.event("completed")
    session = await product.session(session_id)

    assert (session["status"], session["processor"]) == ("completed", stage.backend.processor)
    assert len(session["outputs"]) == len(completed["data"]["outputs"]) == stage.backend.outputs
    for output in session["outputs"]:
        picture = await product.picture(output["link"])
        assert picture.size == (output["width"], output["height"])
    assert session["links"]["output"].partition("?")[0] == session["outputs"][0]["link"].partition("?")[0]
    history = (await product.get(f"{SESSIONS}/{session_id}/history"))["events"]
    assert [each["event"] for each in history] == ["created", "processing", "completed"]
    assert history[1]["data"]["processor"] == stage.backend.processor
    assert await product.remains(session_id)  # so that the story of the erasure looks in the right places


async def test_preview_is_pushed(stage: Stage) -> None:
    """A processor that shows its work has a picture on the screen before the end."""
    if not stage.backend.previews:
        return
    product = stage.product
    session_id = await product.upload(stage.opened.params(2.0))
    async with product.watching(session_id) as watcher:
        frame = await watcher.until(lambda frame: frame["type"] == "progress" and frame.get("preview"))
        assert await product.picture(frame["preview"])
        await watcher.event("completed")


async def test_cancel_stops_run(stage: Stage) -> None:
    """A cancelled session ends at once, and what ran for it stops."""
    if not stage.backend.stoppable:
        return
    product = stage.product
    session_id = await product.upload(stage.opened.params(LONG_SECONDS))
    async with product.watching(session_id) as watcher:
        await watcher.running()
        answer = await product.client.post(f"{SESSIONS}/{session_id}/cancel")
        assert answer.status_code == 202, answer.text
        await watcher.event("cancelled")
    await stage.opened.idle()
    await product.cleaned_up()  # a worker that is killed meanwhile leaves it to the next minute


async def test_killed_worker_is_replaced(stage: Stage) -> None:
    """A session whose worker was killed completes; a run that goes on runs once."""
    if not stage.backend.stoppable:
        return
    product = stage.product
    runs = stage.opened.runs
    before = runs() if runs else 0
    session_id = await product.upload(stage.opened.params(LONG_SECONDS if stage.opened.release else SHORT_SECONDS))
    async with product.watching(session_id) as watcher:
        await watcher.running()
        for worker in product.workers():
            worker.kill()
        requeued = await watcher.event("requeued")
        await watcher.running(after=requeued["seq"])
        if stage.opened.release:
            await stage.opened.release()
        await watcher.event("completed")
    history = (await product.get(f"{SESSIONS}/{session_id}/history"))["events"]
    assert [each["event"] for each in history] == ["created", "processing", "requeued", "processing", "completed"]
    if runs and stage.backend.resumes:
        assert runs() == before + 1


async def test_erased_session_leaves_nothing(stage: Stage) -> None:
    """A session that is deleted while it runs leaves no file, row or work behind."""
    product = stage.product
    session_id = await product.upload(stage.opened.params(LONG_SECONDS))
    async with product.watching(session_id) as watcher:
        await watcher.running()
        answer = await product.client.delete(f"{SESSIONS}/{session_id}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["upstream"] in ("none", stage.backend.upstream)
        bye = await watcher.until(lambda frame: frame["type"] == "bye")
    assert (bye["code"], bye["reason"]) == (4510, "deleted")
    assert (await product.client.get(f"{SESSIONS}/{session_id}")).status_code == 404
    await stage.opened.idle()
    await product.cleaned_up()
    async with asyncio.timeout(WAIT_SECONDS):
        while await product.remains(session_id):
            await asyncio.sleep(0.1)
    assert all(psutil.pid_exists(worker.pid) for worker in product.workers())
