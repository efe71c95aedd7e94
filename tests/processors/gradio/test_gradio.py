"""The processor ``gradio`` against a true Gradio app."""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import pytest
from PIL import Image

from testkit.gradio_app import GradioServer
from testkit.jobs import input_of
from tryon.processor import Job, Output, ProcessorError, Reference
from tryon.processor.conformance import ProcessorConformance, Reports
from worker.isolation.confined import Confined
from worker.processors.gradio.failures import BUSY_SECONDS
from worker.processors.gradio.processor import GradioProcessor

pytestmark = pytest.mark.xdist_group("gradio")  # one app, one queue

SIZE: Final = (64, 96)
BLUE, GREEN, BLACK, WHITE = (0, 0, 250), (0, 200, 0), (0, 0, 0), (255, 255, 255)
EDITOR: Final = {"background": "$input.person", "layers": [], "composite": "$null"}
TRYON: Final = {"api": "/tryon", "data": [EDITOR, "$input.garment", "$params.does", "$params.steps"]}
ANY: Final = {"type": "object"}


def png(colour: tuple[int, int, int], mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", SIZE, colour).convert(mode).save(file, "PNG")
    return file.getvalue()


def job(*, seed: int = 1, mask: bytes | None = None, **params: Any) -> Job:
    inputs = [input_of(png(BLUE), "image/png"), input_of(png(GREEN), "image/png", role="garment")]
    if mask is not None:
        inputs.append(input_of(mask, "image/png", role="mask"))
    return Job(
        session_id=secrets.token_hex(8),
        inputs=tuple(inputs),
        params={"does": "", "steps": 0, **params},
        seed=seed,
    )


def colour(output: Output, x: float, y: float) -> tuple[int, ...]:
    """Return the colour at a place given in parts of the width and height."""
    image = Image.open(io.BytesIO(bytes(output.data))).convert("RGB")
    found = image.getpixel((round(x * (image.width - 1)), round(y * (image.height - 1))))
    assert isinstance(found, tuple)
    return tuple(int(part) for part in found)


Make = Callable[..., GradioProcessor]


@pytest.fixture
async def make(gradio_app: GradioServer) -> AsyncIterator[Make]:
    """Make processors for the shared app."""
    made: list[GradioProcessor] = []

    def make(**options: Any) -> GradioProcessor:
        options = {"url": gradio_app.url, "calls": [TRYON], "params_schema": ANY} | options
        made.append(GradioProcessor(**options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def gate(gradio_app: GradioServer) -> Iterator[str]:
    """Return the name of a gate for calls to wait for; the end of the test opens it."""
    name = secrets.token_hex(4)
    yield name
    gradio_app.open(name)


async def runs(app: GradioServer, gate: str, report: Reports) -> None:
    """Return when the call that waits for the gate runs, and its worker knows it."""
    await app.happened(f"{gate}.runs")
    await until(lambda: bool(report.checkpoints))


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; a report announces nothing to two waiters."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def position(report: Reports) -> int | None:
    return report.all[-1].upstream_position if report.all else None


async def failure(running: Awaitable[object]) -> ProcessorError:
    with pytest.raises(ProcessorError) as raised:
        await running
    return raised.value


class TestConformance(ProcessorConformance):
    """It passes the checks for any processor."""

    params = {"does": "", "steps": 0}

    @pytest.fixture(autouse=True)
    def _app(self, gradio_app: GradioServer) -> None:
        self._url = gradio_app.url

    def make(self) -> GradioProcessor:
        # The app's queue takes two calls.
        return GradioProcessor(url=self._url, calls=[TRYON], params_schema=ANY, concurrency=2)


async def test_run_needs_no_more_than_it_says(gradio_app: GradioServer) -> None:
    """In a worker's child with its sandbox it finds the app, and reports from there."""
    processor = Confined(
        "worker.processors.gradio.processor:GradioProcessor", url=gradio_app.url, calls=[TRYON], params_schema=ANY
    )
    report = Reports()
    await processor.start()
    try:
        [result] = await processor.run(job(steps=3), report)
        await processor.cancel(Reference(key="s-1"), report.checkpoints[-1])
    finally:
        await processor.close()
    assert colour(result, 0.5, 0.8) == GREEN
    assert any(each.steps == 3 for each in report.all)


# -- results ---------------------------------------------------------------------------


async def test_editor_inputs_make_named_outputs(make: Make) -> None:
    """Background and layer reach the app; its two pictures have roles."""
    layers = {"background": "$input.person", "layers": ["$input.mask"], "composite": "$null"}
    processor = make(
        roles={"person": {}, "garment": {}, "mask": {}},
        calls=[{**TRYON, "data": [layers, *TRYON["data"][1:]]}],
        outputs={"result": "$result.tryon.0", "masked": "$result.tryon.1"},
    )

    result, masked = await processor.run(job(mask=png(WHITE, "RGBA")), Reports())

    assert (result.role, result.type, masked.role) == ("result", "image/png", "masked")
    assert colour(result, 0.5, 0.2) == BLUE
    assert colour(result, 0.5, 0.8) == GREEN
    assert colour(masked, 0.5, 0.5) == BLACK


async def test_second_call_is_given_results_of_first(make: Make) -> None:
    """A mask call, then a run call with its editor's value and its pose."""
    processor = make(
        calls=[
            {"name": "mask", "api": "/generate_mask", "data": ["$input.person", "$params.category"]},
            {
                "name": "run",
                "api": "/process",
                "data": ["$input.person", "$input.garment", "$result.mask.0", "$result.mask.1", "$seed", 2],
                "weight": 3,
            },
        ],
        outputs={"result": "$result.run.0", "mask": "$result.mask.0"},
    )
    report = Reports()

    first, second, mask = await processor.run(job(seed=77, category="upper"), report)

    assert [each.role for each in (first, second, mask)] == ["result", "result", "mask"]
    assert colour(first, 0.5, 0.2) == GREEN
    assert colour(first, 0.5, 0.8) == BLUE
    assert colour(first, 0, 1) == (77, 0, 0)
    assert colour(mask, 0.5, 0.2) == BLACK
    assert len(report.checkpoints) == 2
    assert {each.progress for each in report.all} >= {0.0, 0.25, 1.0}


# -- the way to them -------------------------------------------------------------------


async def test_progress_of_app_is_shown(make: Make) -> None:
    """The app's steps and its word for them reach the report."""
    report = Reports()
    await make().run(job(steps=5), report)
    shown = [(each.progress, each.step, each.steps) for each in report.all if each.stage == "denoising"]
    assert shown
    assert all(progress == step / steps == pytest.approx(step / 5) for progress, step, steps in shown if step and steps)


async def test_picture_of_generator_is_previewed(make: Make, gradio_app: GradioServer, gate: str) -> None:
    """What the app yields on its way is shown before the result."""
    call = {"api": "/grow", "data": ["$input.person", "$input.garment", "$params.does", "$params.steps"]}
    processor = make(calls=[call], outputs={"result": "$result.grow.1"}, previews=True)
    report = Reports()

    running = asyncio.create_task(processor.run(job(does=f"wait {gate}"), report))
    await until(lambda: bool(report.previews))
    assert not running.done()
    gradio_app.open(gate)
    [result] = await running

    picture = Output(*report.previews[0])
    assert colour(picture, 0.5, 0.2) == GREEN
    assert colour(result, 0.5, 0.2) == BLUE


async def test_rank_in_queue_is_shown(make: Make, gradio_app: GradioServer, gate: str) -> None:
    """A call that waits knows its place, and moves up; a third one is refused."""
    processor = make()
    await processor.run(job(), Reports())  # the app knows now how long a call takes
    reports = [Reports() for _ in range(3)]
    running = [asyncio.create_task(processor.run(job(does=f"wait {gate}"), reports[0]))]
    await gradio_app.happened(f"{gate}.runs")
    for number in (1, 2):
        running.append(asyncio.create_task(processor.run(job(), reports[number])))
        await until(lambda number=number: position(reports[number]) == number)  # type: ignore[misc]

    refused = await failure(processor.run(job(), Reports()))
    assert (refused.code, refused.retry_after) == ("backend_busy", BUSY_SECONDS)

    gradio_app.open(gate)
    await asyncio.gather(*running)
    waited = [each for each in reports[2].all if each.upstream_position is not None]
    assert waited[0].upstream_position == 2
    assert any(each.eta_seconds is not None for each in waited)
    assert position(reports[2]) is None


# -- the end of a call before its time -------------------------------------------------


async def test_cancel_stops_call_that_runs(make: Make, gradio_app: GradioServer, gate: str) -> None:
    """The function is cancelled in the app, by the checkpoint alone."""
    report = Reports()
    running = asyncio.create_task(make().run(job(does=f"wait {gate}"), report))
    await runs(gradio_app, gate, report)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()

    other = make()
    for _ in range(2):  # and once more, when there is nothing left
        await other.cancel(Reference(key="s-1"), report.checkpoints[-1])

    await gradio_app.happened(f"{gate}.stopped")
    assert await other.run(job(), Reports())


async def test_erasure_stops_call_that_runs(gradio_app: GradioServer, gate: str) -> None:
    """An app can delete nothing, but the work for an erased session is stopped."""
    processor = Confined(
        "worker.processors.gradio.processor:GradioProcessor", url=gradio_app.url, calls=[TRYON], params_schema=ANY
    )
    report = Reports()
    await processor.start()
    try:
        running = asyncio.create_task(processor.run(job(does=f"wait {gate}"), report))
        await runs(gradio_app, gate, report)
        running.cancel()
        await asyncio.wait({running})
        await processor.forget(Reference(key="s-1"), report.checkpoints[-1])
    finally:
        await processor.close()

    await gradio_app.happened(f"{gate}.stopped", 15)


async def test_call_of_lost_worker_leaves_queue(make: Make, gradio_app: GradioServer, gate: str) -> None:
    """A stream that ends takes its waiting call along: nothing runs for it."""
    processor, lost = make(), f"{gate}-lost"
    first = asyncio.create_task(processor.run(job(does=f"wait {gate}"), Reports()))
    await gradio_app.happened(f"{gate}.runs")
    report = Reports()
    waiting = asyncio.create_task(processor.run(job(does=f"wait {lost}"), report))
    await until(lambda: position(report) == 1)
    waiting.cancel()
    await asyncio.wait({waiting})
    await gradio_app.waiting(0)

    gradio_app.open(gate)
    await first
    assert await processor.run(job(), Reports())
    assert not (gradio_app.folder / f"{lost}.runs").exists()


async def test_call_cancelled_in_app_is_no_result(make: Make, gradio_app: GradioServer, gate: str) -> None:
    """Success without a result is a cancel, and the session is tried again."""
    report = Reports()
    running = asyncio.create_task(make().run(job(does=f"wait {gate}"), report))
    await runs(gradio_app, gate, report)
    await make().cancel(Reference(key="s-1"), report.checkpoints[-1])
    error = await failure(running)
    assert (error.code, error.requeue) == ("processor_error", True)


@pytest.mark.slow
async def test_app_that_dies_is_unreachable() -> None:
    """A run whose app is killed is tried again, and so is one that finds none."""
    server = GradioServer()
    processor = GradioProcessor(url=server.url, calls=[TRYON], params_schema=ANY)
    try:
        await server.start()
        await processor.health()
        running = asyncio.create_task(processor.run(job(does="wait gate"), Reports()))
        await server.happened("gate.runs")
        await server.kill()
        for error in (await failure(running), await failure(processor.run(job(), Reports()))):
            assert (error.code, error.requeue) == ("backend_unreachable", True)
        await failure(processor.health())
    finally:
        await processor.close()
        await server.close()


# -- failures --------------------------------------------------------------------------

QUOTA: Final = "You have exceeded your free ZeroGPU quota (90s requested vs. 41s left). Try again in 0:10:00."


async def test_quota_is_read_from_text(make: Make) -> None:
    """The worker waits if the time fits before the deadline."""
    error = await failure(make().run(job(does=f"fail {QUOTA}"), Reports()))
    assert (error.code, error.retry_after, error.retryable) == ("quota_exceeded", 600, True)


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("fail No person was found", "person_not_found"),
        ("fail too blurred", "unreadable_image"),
        ("crash", "processor_error"),
    ],
)
async def test_failure_of_function_has_code(make: Make, does: str, code: str) -> None:
    """Texts of the app become codes; none of them is shown."""
    report = Reports()
    error = await failure(make(errors=[{"match": "blurred", "code": "unreadable_image"}]).run(job(does=does), report))
    assert (error.code, error.message) == (code, None)
    assert "secret" not in "".join(report.lines)


@pytest.mark.parametrize(
    "options",
    [
        {"calls": [{"api": "/other", "data": []}]},
        {"calls": [TRYON], "outputs": {"result": "$result.tryon.5"}},
        {"calls": [{"api": "/tryon", "data": []}]},
    ],
)
async def test_options_that_do_not_fit_app_fail_run(make: Make, options: dict[str, Any]) -> None:
    """The log says what does not fit; the person reads that the model failed."""
    report = Reports()
    error = await failure(make(**options).run(job(), report))
    assert error.code == "processor_error"
    assert report.lines


async def test_health_names_function_that_is_missing(make: Make) -> None:
    """A space that was rebuilt under other names is seen before a session is."""
    await make().health()
    error = await failure(make(calls=[{"api": "/other", "data": []}]).health())
    assert "has no function 'other'" in str(error)
