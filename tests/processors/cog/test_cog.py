"""The processor `cog` against the true `cog.server.http`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from testkit.processes import free_port
from testkit.proxy import running_proxy
from testkit.uploads import picture
from tests.processors.cog.serving import CogProcess, running_cog
from tests.processors.recording import Recorder, make_job
from tryon.processor import Job, Output, ProcessorError, Reference
from worker.processors.cog import CogProcessor, processor
from worker.processors.cog.server import CogServer, JsonObject

pytestmark = pytest.mark.xdist_group("cog")

PERSON, GARMENT = picture((64, 96)), picture((80, 80))

PARAMS = {
    "type": "object",
    "properties": {"seconds": {"type": "number"}, "why": {"type": "string"}},
    "additionalProperties": False,
}


@contextlib.asynccontextmanager
async def cog_processor(url: str, **options: Any) -> AsyncIterator[CogProcessor]:
    """Open a processor for the server at ``url``."""
    made = CogProcessor(url=url, params={"why": "fails"}, params_schema=PARAMS, seed="seed", **options)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(scope="module")
async def streaming_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CogProcess]:
    """Run one server whose model streams, for all tests that leave it as it was."""
    async with running_cog(tmp_path_factory.mktemp("streaming")) as server:
        yield server


@pytest.fixture(scope="module")
async def waiting_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CogProcess]:
    """Run one server whose model does not stream."""
    async with running_cog(tmp_path_factory.mktemp("waiting"), streams=False) as server:
        yield server


@pytest.fixture
async def streaming(streaming_server: CogProcess) -> CogProcess:
    """Return the server whose model streams, once it has ended the run before."""
    await streaming_server.reaches("READY")
    return streaming_server


@pytest.fixture
async def waiting(waiting_server: CogProcess) -> CogProcess:
    """Return the server whose model does not stream, in the same way."""
    await waiting_server.reaches("READY")
    return waiting_server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask ten times as often."""
    monkeypatch.setattr(processor, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(processor, "POLL_SHARE", 1.0)


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[contextlib.AsyncExitStack]:
    """Close what a test has opened."""
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path, {"person": PERSON, "garment": GARMENT})


def long_job(folder: Path, seconds: float = 30.0, *, attempt: int = 1) -> Job:
    return make_job(folder, {"person": PERSON}, attempt=attempt, seconds=seconds)


async def code_of(run: Any) -> ProcessorError:
    with pytest.raises(ProcessorError) as caught:
        await run
    return caught.value


async def test_streaming_model_returns_outputs(streaming: CogProcess, job: Job) -> None:
    """Every file that the model yields is an output, and its seconds are the usage."""
    async with cog_processor(streaming.url) as cog:
        report = Recorder()
        outputs = await cog.run(job, report)
    assert outputs == [Output(GARMENT, "image/png", "result"), Output(PERSON, "image/png", "result")]
    assert report.usages[-1]["gpu_seconds"] is not None


async def test_progress_is_read_from_events(streaming: CogProcess, tmp_path: Path) -> None:
    """A bar of tqdm in the model's log becomes step, steps, progress and time left."""
    async with cog_processor(streaming.url) as cog:
        report = Recorder()
        await cog.run(long_job(tmp_path, 0.5), report)
    told = [each for each in report.all if each.steps is not None]
    assert [each.step for each in told] == sorted({each.step for each in told if each.step is not None})
    assert (told[-1].step, told[-1].steps, told[-1].progress) == (10, 10, 1.0)
    assert (told[-1].stage, told[-1].eta_seconds) == ("Denoising", 2.0)


async def test_last_file_is_result_and_others_previews(streaming: CogProcess, job: Job) -> None:
    """With `result: last` the files before the last one show how it grows."""
    async with cog_processor(streaming.url, result="last") as cog:
        report = Recorder()
        assert await cog.run(job, report) == [Output(PERSON, "image/png", "result")]
    assert (GARMENT, "image/png") in report.previews


async def test_named_files_become_roles(waiting: CogProcess, job: Job) -> None:
    """An object's files have the roles that the options give them; others are left."""
    async with cog_processor(waiting.url, outputs={"image": "result", "mask": "mask"}) as cog:
        outputs = await cog.run(job, Recorder())
    assert [(each.role, each.data) for each in outputs] == [("result", PERSON), ("mask", GARMENT)]


async def test_progress_is_asked_for_when_model_does_not_stream(waiting: CogProcess, tmp_path: Path) -> None:
    """A model without events is asked what it has printed, and runs once."""
    before = waiting.runs.count("began")
    async with cog_processor(waiting.url) as cog:
        report = Recorder()
        running = asyncio.create_task(cog.run(long_job(tmp_path), report))
        await report.until(lambda report: any(each.steps == 10 for each in report.all))
        await waiting.release()
        assert await running
    assert waiting.runs.count("began") == before + 1


async def test_killed_run_is_followed_on(streaming: CogProcess, tmp_path: Path) -> None:
    """A prediction outlives its worker: the next one follows it, and it runs once."""
    before = streaming.runs.count("began")
    first, second = Recorder(), Recorder()
    async with cog_processor(streaming.url) as cog:
        lost = asyncio.create_task(cog.run(long_job(tmp_path), first))
        await first.until(lambda report: any(each.steps for each in report.all))
        lost.cancel()
        await asyncio.wait({lost})
    async with cog_processor(streaming.url) as cog:
        resumed = asyncio.create_task(cog.resume(long_job(tmp_path, attempt=2), first.checkpoints[-1], second))
        await second.until(lambda report: any(each.steps for each in report.all))
        await streaming.release()
        assert [each.data for each in await resumed] == [PERSON]
    assert second.checkpoints == []
    assert streaming.runs.count("began") == before + 1


async def test_ended_prediction_gets_new_id(streaming: CogProcess, job: Job) -> None:
    """An id that has ended is never run again: what follows is another prediction."""
    async with cog_processor(streaming.url) as cog:
        first, second = Recorder(), Recorder()
        await cog.run(job, first)
        before = streaming.runs.count("began")
        assert await cog.resume(job, first.checkpoints[-1], second)
    assert streaming.runs.count("began") == before + len(second.checkpoints)
    assert not {each["id"] for each in first.checkpoints} & {each["id"] for each in second.checkpoints}


async def test_prediction_that_ends_before_its_stream_runs_once_more(
    streaming: CogProcess, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is done before anybody can listen is started by its stream."""
    ended = streaming.runs.count("ended")
    submit = CogServer.submit

    async def submit_and_wait(self: CogServer, prediction: str, body: JsonObject, trace: str | None) -> None:
        await submit(self, prediction, body, trace)
        await streaming.wrote("ended", ended + 1)
        await streaming.reaches("READY")

    monkeypatch.setattr(CogServer, "submit", submit_and_wait)
    async with cog_processor(streaming.url) as cog:
        report = Recorder()
        assert len(await cog.run(job, report)) == 2
    assert streaming.runs.count("ended") == ended + 2
    assert len({each["id"] for each in report.checkpoints}) == 2


async def test_checkpoint_comes_before_prediction(streaming: CogProcess, job: Job) -> None:
    """The id is committed before the server hears of it."""
    before = streaming.runs.count("began")
    seen: list[int] = []
    report = Recorder(on_checkpoint=lambda _: seen.append(streaming.runs.count("began")))
    async with cog_processor(streaming.url) as cog:
        await cog.run(job, report)
    assert seen[0] == before


async def test_lost_connection_is_followed_on(streaming: CogProcess, tmp_path: Path) -> None:
    """A connection that breaks is opened again, and the prediction runs once."""
    before = streaming.runs.count("began")
    port = int(streaming.url.rpartition(":")[2])
    async with running_proxy(port) as proxy, cog_processor(f"http://127.0.0.1:{proxy.port}") as cog:
        report = Recorder()
        running = asyncio.create_task(cog.run(long_job(tmp_path), report))
        await report.until(lambda report: any(each.steps for each in report.all))
        proxy.cut()
        await report.until(lambda report: "waiting for the model server" in report.stages)
        await report.until(lambda report: report.all[-1].steps)
        await streaming.release()
        assert [each.data for each in await running] == [PERSON]
    assert streaming.runs.count("began") == before + 1


async def test_busy_server_is_waited_for(streaming: CogProcess, tmp_path: Path) -> None:
    """A server at capacity is `backend_busy`, with a time to come back."""
    async with cog_processor(streaming.url, busy_seconds=3.0) as cog:
        report = Recorder()
        running = asyncio.create_task(cog.run(long_job(tmp_path), report))
        await report.until(lambda report: report.all)
        await streaming.reaches("BUSY")
        error = await code_of(cog.run(long_job(tmp_path), Recorder()))
        assert (error.code, error.retry_after) == ("backend_busy", 3.0)
        await cog.cancel(Reference(key="x"), report.checkpoints[-1])
        assert (await code_of(running)).requeue
    await streaming.reaches("READY")


@pytest.mark.parametrize("method", ["cancel", "forget"])
async def test_cancel_stops_prediction(streaming: CogProcess, tmp_path: Path, method: str) -> None:
    """The model stops, and a second call finds nothing and returns."""
    before = streaming.runs.count("cancelled")
    async with cog_processor(streaming.url) as cog:
        report = Recorder()
        running = asyncio.create_task(cog.run(long_job(tmp_path), report))
        await report.until(lambda report: report.all)
        running.cancel()
        await asyncio.wait({running})
        for _ in range(2):
            await getattr(cog, method)(Reference(key="x"), report.checkpoints[-1])
    await streaming.wrote("cancelled", before + 1)
    await streaming.reaches("READY")


async def test_cancelled_wait_stops_prediction(waiting: CogProcess, tmp_path: Path) -> None:
    """A model that does not stream stops when the run's request ends."""
    before = waiting.runs.count("cancelled")
    async with cog_processor(waiting.url) as cog:
        report = Recorder()
        running = asyncio.create_task(cog.run(long_job(tmp_path), report))
        await waiting.reaches("BUSY")
        running.cancel()
        await asyncio.wait({running}, timeout=30)
        assert running.cancelled()
    await waiting.wrote("cancelled", before + 1)
    await waiting.reaches("READY")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("NSFW content detected", "moderated_output"),
        ("No person in the photo", "person_not_found"),
        ("garment not found", "garment_not_found"),
        ("index out of range", "processor_error"),
        ("E42 of the model", "pose_not_supported"),
    ],
)
async def test_failed_prediction_has_code(streaming: CogProcess, tmp_path: Path, text: str, code: str) -> None:
    """The model's words become a code; options add patterns, and no text goes on."""
    async with cog_processor(streaming.url, errors=[{"match": r"\bE42\b", "code": "pose_not_supported"}]) as cog:
        report = Recorder()
        error = await code_of(cog.run(make_job(tmp_path, {"person": PERSON}, why=text), report))
    assert (error.code, error.message) == (code, None)
    assert report.usages


async def test_refused_input_is_an_error(streaming: CogProcess, tmp_path: Path) -> None:
    """An input that the model's schema refuses fails the session, and does not wait."""
    async with cog_processor(streaming.url, fixed={"seconds": "soon"}) as cog:
        error = await code_of(cog.run(make_job(tmp_path, {"person": PERSON}), Recorder()))
    assert (error.code, error.requeue, error.retry_after) == ("processor_error", False, None)


async def test_starting_server_is_warming(servers: contextlib.AsyncExitStack, tmp_path: Path, job: Job) -> None:
    """A server that loads its weights is waited for, in a stage of its own."""
    server = await servers.enter_async_context(running_cog(tmp_path / "server", ready=False, SETUP_SECONDS="4"))
    async with cog_processor(server.url) as cog:
        report = Recorder()
        assert (await code_of(cog.health())).code == "backend_cold"
        assert await cog.run(job, report)
        assert "warming" in report.stages
        await cog.health()


async def test_start_has_deadline(servers: contextlib.AsyncExitStack, tmp_path: Path, job: Job) -> None:
    """A server that starts for too long is `backend_cold`."""
    server = await servers.enter_async_context(running_cog(tmp_path / "server", ready=False, SETUP_SECONDS="60"))
    async with cog_processor(server.url, warming_seconds=0.2) as cog:
        error = await code_of(cog.run(job, Recorder()))
    assert (error.code, error.requeue) == ("backend_cold", True)


async def test_failed_setup_is_unreachable(tmp_path: Path, job: Job) -> None:
    """A server whose setup has failed runs nothing more."""
    async with running_cog(tmp_path / "server", ready=False, SETUP_FAILS="1") as server:
        await server.reaches("SETUP_FAILED")
        async with cog_processor(server.url, unreachable_seconds=0.2) as cog:
            assert (await code_of(cog.run(job, Recorder()))).code == "backend_unreachable"
            assert (await code_of(cog.health())).code == "backend_unreachable"


async def test_absent_server_is_unreachable(job: Job) -> None:
    """A server that does not answer is waited for, and then another attempt is due."""
    async with cog_processor(f"http://127.0.0.1:{free_port()}", unreachable_seconds=0.3) as cog:
        report = Recorder()
        error = await code_of(cog.run(job, report))
    assert (error.code, error.requeue) == ("backend_unreachable", True)
    assert "waiting for the model server" in report.stages


async def test_server_without_schema_is_never_asked_again(tmp_path: Path) -> None:
    """A server that takes any input might run a question: it gets none."""
    async with running_cog(tmp_path / "server", streams=False, with_schema=False) as server:
        async with cog_processor(server.url) as cog:
            report = Recorder()
            assert await cog.run(long_job(tmp_path, 0.5), report)
            assert await cog.resume(long_job(tmp_path, 0.0, attempt=2), report.checkpoints[-1], Recorder())
        assert server.runs == ["began", "ended"] * 2


async def test_replay_that_was_cut_ends_prediction(tmp_path: Path) -> None:
    """A prediction whose events were dropped is cancelled: its end is lost."""
    async with running_cog(tmp_path / "server", COG_STREAM_HISTORY_CAPACITY="2") as server:
        first, second = Recorder(), Recorder()
        async with cog_processor(server.url) as cog:
            lost = asyncio.create_task(cog.run(long_job(tmp_path, 10.0), first))
            await first.until(lambda report: sum(each.steps is not None for each in report.all) >= 3)
            lost.cancel()
            await asyncio.wait({lost})
            again = asyncio.create_task(cog.resume(long_job(tmp_path, 0.0, attempt=2), first.checkpoints[-1], second))
            await server.wrote("cancelled")
            with contextlib.suppress(ProcessorError):  # the server may be busy until the first run has ended
                assert await again
