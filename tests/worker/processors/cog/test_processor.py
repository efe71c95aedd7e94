"""Outages of the server, against a fake that counts what it runs.

The whole way is tested against a true Cog server in ``tests/processors/cog``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from testkit.model_host import picture
from testkit.proxy import Proxy, running_proxy
from testkit.running import until
from testkit.upstreams import Reply, Request, UpstreamServer
from tests.processors.recording import Recorder, make_job
from tryon.processor import Job, Output, ProcessorError, Reference
from worker.processors.cog import CogProcessor, processor, server

SCHEMA = {
    "paths": {"/predictions": {"post": {"x-cog-streaming": True}}},
    "components": {"schemas": {"Input": {"properties": {"person": {"type": "string"}}}}},
}


class FakeCog:
    """A server whose model streams; it keeps running while it is ``away``."""

    def __init__(self) -> None:
        self.server = UpstreamServer(self._answer)
        self.away = False
        self.taken = asyncio.Event()
        """Unless set, submissions are under way: no prediction begins."""
        self.taken.set()
        self.lost_files = 0
        """Downloads that fail from now on."""
        self.file_status = 200
        self.running: dict[str, asyncio.Event] = {}
        """What ends each prediction."""
        self.started = asyncio.Event()
        """A stream is open."""
        self.begun: list[str] = []
        self.cancelled: list[str] = []

    async def _answer(self, request: Request) -> Reply:
        if self.away:
            return Reply(502)
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["health-check"]:
                return Reply.of({"status": "READY"})
            case "GET", ["openapi.json"]:
                return Reply.of(SCHEMA)
            case "GET", ["files", _]:
                self.lost_files -= 1
                return Reply(502) if self.lost_files >= 0 else Reply(self.file_status, picture())
            case "POST", ["predictions", number, "cancel"]:
                self.cancelled.append(number)
                return Reply.of({}, 200 if self.running.pop(number, None) else 404)
            case "PUT", ["predictions", number]:
                if number not in self.running and request.json()["input"]["person"] == {}:
                    return Reply.of({}, 422)
                await self.taken.wait()
                if number not in self.running:
                    self.begun.append(number)
                    self.running[number] = asyncio.Event()
                if request.headers["accept"] != "text/event-stream":
                    return Reply.of({"id": number}, 202)
                return Reply(headers={"Content-Type": "text/event-stream"}, stream=self._events(number))
        return Reply.of({}, 404)

    async def _events(self, number: str) -> AsyncGenerator[bytes, None]:
        yield b": hello\n\n"
        self.started.set()
        await self.running[number].wait()
        self.running.pop(number, None)
        end = {"status": "succeeded", "output": [f"{self.server.url}/files/0"]}
        yield b"event: completed\ndata: " + json.dumps(end).encode() + b"\n\n"

    def end_all(self) -> None:
        """End what runs, as soon as a stream asks for it."""
        for ends in self.running.values():
            ends.set()


@contextlib.asynccontextmanager
async def cog() -> AsyncIterator[tuple[FakeCog, CogProcessor, Proxy]]:
    """Run a fake server, and open a processor that reaches it through a proxy."""
    fake = FakeCog()
    async with fake.server, running_proxy(fake.server.port) as proxy:
        made = CogProcessor(url=f"http://127.0.0.1:{proxy.port}", hosts=[fake.server.url], unreachable_seconds=0.05)
        await made.start()
        try:
            yield fake, made, proxy
        finally:
            await made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "POLL_SECONDS", 0.02)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path, {"person": picture("image/png")})


async def failed(run: Any) -> ProcessorError:
    with pytest.raises(ProcessorError) as caught:
        await asyncio.wait_for(run, 10)
    return caught.value


async def test_prediction_is_followed_on_after_an_outage(job: Job) -> None:
    """It runs once, however long the server is away: a requeue would cancel it."""
    async with cog() as (fake, made, proxy):
        report = Recorder()
        running = asyncio.create_task(made.run(job, report))
        await asyncio.wait_for(fake.started.wait(), 10)
        fake.away = True
        proxy.cut()
        error = await failed(running)
        assert (error.code, error.requeue, error.retry_after) == ("backend_unreachable", False, 5.0)
        again = await failed(made.resume(job, report.checkpoints[-1], Recorder()))
        assert (again.code, again.requeue, again.retry_after) == ("backend_unreachable", False, 5.0)

        fake.away = False
        fake.started.clear()
        resumed = asyncio.create_task(made.resume(job, report.checkpoints[-1], Recorder()))
        await asyncio.wait_for(fake.started.wait(), 10)
        fake.end_all()
        assert await asyncio.wait_for(resumed, 10) == [Output(picture(), "image/jpeg", "result")]
        assert (len(fake.begun), fake.cancelled) == (1, [])


async def test_cancel_that_overtakes_its_submission_is_repeated(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server knows no such prediction yet, and must not run what arrives."""
    monkeypatch.setattr(server, "OVERTAKEN_SECONDS", (0.01,) * 1000)
    async with cog() as (fake, made, _):
        fake.taken.clear()
        report = Recorder()
        running = asyncio.create_task(made.run(job, report))
        await until(lambda: fake.server.asked("PUT", "/predictions/"))
        running.cancel()  # as its killed process does: the request stays under way
        await asyncio.gather(running, return_exceptions=True)
        cancelling = asyncio.create_task(made.cancel(Reference(key=job.key), report.checkpoints[-1]))
        await until(lambda: fake.cancelled)
        assert fake.begun == []
        fake.taken.set()
        await asyncio.wait_for(cancelling, 10)
        assert (len(fake.begun), fake.running) == (1, {})


async def test_cancel_of_an_ended_prediction_returns(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for a while whether one arrives, and no longer."""
    monkeypatch.setattr(server, "OVERTAKEN_SECONDS", (0.01, 0.01))
    async with cog() as (fake, made, _):
        await made.forget(Reference(key=job.key), {"id": "x"})
        assert fake.cancelled == ["x", "x", "x"]


async def test_link_that_cannot_be_reached_is_fetched_later(job: Job) -> None:
    """The server has forgotten the prediction: only the checkpoint knows the link."""
    async with cog() as (fake, made, _):
        report = Recorder()
        running = asyncio.create_task(made.run(job, report))
        await asyncio.wait_for(fake.started.wait(), 10)
        fake.lost_files = 2
        fake.end_all()
        error = await failed(running)
        assert (error.code, error.requeue, error.retry_after) == ("backend_unreachable", False, 5.0)
        checkpoint = report.checkpoints[-1]
        assert checkpoint == {"links": [["result", f"{fake.server.url}/files/0"]]}

        assert (await failed(made.resume(job, checkpoint, Recorder()))).retry_after == 5.0
        assert await made.resume(job, checkpoint, Recorder()) == [Output(picture(), "image/jpeg", "result")]
        await made.forget(Reference(key=job.key), checkpoint)
        assert (len(fake.begun), fake.cancelled) == (1, [])


async def test_link_that_ran_out_is_made_again(job: Job) -> None:
    """There is nothing left to wait for."""
    async with cog() as (fake, made, _):
        report = Recorder()
        resumed = asyncio.create_task(made.resume(job, {"links": [["result", f"{fake.server.url}/gone"]]}, report))
        await asyncio.wait_for(fake.started.wait(), 10)
        fake.end_all()
        assert len(await asyncio.wait_for(resumed, 10)) == 1
        assert report.checkpoints[0] == {"id": fake.begun[0]}
