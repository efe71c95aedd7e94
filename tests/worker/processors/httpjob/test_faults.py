"""The faults of the hosts, and what becomes of the run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from testkit.model_host import ModelHost, picture, slowly
from testkit.upstreams import Reply, UpstreamServer
from tests.worker.processors.httpjob.hosting import Told, failed, host, resumed, run
from tryon.processor import Job, ProcessorError, Reference
from worker.processors.httpjob import HttpJob

# -- faults of the host ----------------------------------------------------------------


async def test_busy_host_is_waited_for_by_the_worker(job: Job) -> None:
    """Nothing was begun, so nothing is lost."""
    async with host() as (server, processor):
        server.next = [Reply.of({}, 429, Retry_After="17")]
        told = Told()
        error = await failed(processor, job, told)
        assert (error.code, error.retry_after, told.checkpoints) == ("backend_busy", 17, [])


async def test_failures_while_the_work_runs_burn_no_attempt(job: Job) -> None:
    """A 500, a busy answer and half an answer: the work goes on meanwhile."""
    async with host() as (server, processor):
        server.next = [
            Reply.of({"id": "1"}, 201),
            Reply.of({}, 500),
            Reply(body=b"{", length=10),
            Reply.of({}, 429, Retry_After="0"),
            Reply.of({"status": "succeeded", "files": [{"url": f"{server.url}/files/0"}]}),
        ]
        [output] = await run(processor, job)
        assert output.data == server.results[0]


async def test_host_that_stays_away_is_waited_for(job: Job) -> None:
    """The work is paid for: it is neither forgotten nor begun anew meanwhile."""
    told = Told()
    async with host(poll={"path": "/jobs/{id}", "every": 0.001}) as (server, processor):
        server.next = [Reply.of({"id": "1"}, 201), *[Reply.of({}, 500)] * 5]
        error = await failed(processor, job, told)
        assert (error.code, error.requeue) == ("backend_unreachable", False), "a requeue would have it forgotten"
        assert error.retry_after is not None
        assert told.checkpoints[-1] == {"works": [{"id": "1"}], "ended": False}


async def test_result_that_cannot_be_reached_is_fetched_by_the_next_attempt(job: Job) -> None:
    """The work is paid for; only a host that refuses its result has ended it."""
    fetch = {"path": "/jobs/{id}/result"}
    for reply, ended in ((Reply(body=b"{", length=9), False), (Reply.of({}, 500), True)):
        told = Told()
        poll = {"path": "/jobs/{id}", "every": 0.001}
        async with host(result={"files": "files.*.url", "fetch": fetch}, poll=poll) as (server, processor):
            server.next = [Reply.of({"id": "1"}, 201), Reply.of({"status": "succeeded"}), *[reply] * 5]
            assert (await failed(processor, job, told)).code == "backend_unreachable"
            assert told.checkpoints[-1]["ended"] is ended


async def test_link_of_an_answer_at_once_is_fetched_by_the_next_attempt(job: Job) -> None:
    """A model without a queue is paid for, too, and asked nothing a second time."""
    async with ModelHost() as server:
        submit = {"path": "/try-on", "json": {"p": "{person}"}}
        processor = HttpJob(url=server.url, submit=submit, result={"files": "files.*.url"}, usage={"cost_usd": "cost"})
        links = [f"{server.url}/files/0"]
        server.next = [Reply.of({"files": [{"url": links[0]}], "cost": 2}), Reply(body=b"{", length=9)]
        told = Told()
        error = await failed(processor, job, told)
        assert (error.code, error.requeue) == ("backend_unreachable", False), "a requeue would submit it again"
        assert error.retry_after is not None
        assert told.checkpoints == [{"works": [], "ended": False, "links": links}]
        assert told.used == {"cost_usd": 2}

        server.next = [Reply.of({}, 500)]
        with pytest.raises(ProcessorError) as again:
            await processor.resume(job, told.checkpoints[-1], Told())
        assert again.value.retry_after is not None
        [output] = await resumed(processor, job, told.checkpoints[-1])
        assert output.data == server.results[0]
        assert len(server.server.asked("POST", "/try-on")) == 1

        server.next = [Reply.of({}, 404), Reply(body=picture("image/png"))]  # the link has run out: it is made again
        [output] = await resumed(processor, job, told.checkpoints[-1])
        assert output.type == "image/png"
        await processor.close()


@pytest.mark.parametrize("polled", [True, False])
async def test_usage_is_said_before_the_checkpoint(polled: bool, job: Job) -> None:
    """A worker that dies before the next answer has told what was paid for."""
    told = Told()
    async with ModelHost() as server:
        options = server.options(result={"files": "files.*.url"})
        processor = HttpJob(**{name: each for name, each in options.items() if polled or name != "poll"})
        files = [{"url": f"{server.url}/files/0"}]
        server.next = [Reply.of({"id": "1", "cost": 4.5, "files": files}, 201)]
        if polled:
            server.next.append(Reply.of({"status": "succeeded", "files": files}))
        await run(processor, job, told)
        assert told.paid == [{"credits": 4.5}]
        await processor.close()


async def test_work_that_is_never_done_is_stopped_and_cancelled(job: Job) -> None:
    """The run ends when it is cancelled; the host is told by another child."""
    told = Told()
    async with host() as (server, processor):
        server.polls = None
        task = asyncio.create_task(run(processor, job, told))
        await asyncio.wait_for(server.polled.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert processor.cancel is not None
        await processor.cancel(Reference(key=job.key), told.checkpoints[-1])
        assert server.works["1"].state == "cancelled"


async def test_slow_host_is_left_in_time(job: Job) -> None:
    """It sends a byte now and then."""
    async with host(submit={"path": "/jobs", "keep": {"id": "id"}, "seconds": 0.3}) as (server, processor):
        server.next = [Reply(stream=slowly(b'{"id": 1}' + b" " * 10_000, 0.01))]
        error = await failed(processor, job)
        assert (error.code, error.requeue) == ("backend_unreachable", True)


async def test_result_behind_a_private_address_is_not_fetched(job: Job) -> None:
    """Neither by a redirect nor by the link itself."""

    async def secrets(request: object) -> Reply:
        return Reply(body=picture())

    async with UpstreamServer(secrets) as inside, host() as (server, processor):
        server.redirect = f"{inside.url}/latest/meta-data"
        error = await failed(processor, job)
        assert (error.code, error.requeue) == ("backend_unreachable", False)
        link = {"status": "succeeded", "files": [{"url": "http://169.254.169.254/latest"}]}
        server.next = [Reply.of({"id": "1"}, 201), Reply.of(link)]
        assert (await failed(processor, job)).code == "backend_unreachable"
        assert inside.requests == []


async def test_result_that_ran_out_is_made_again(job: Job) -> None:
    """The link is dead, the money is spent: the next attempt begins anew."""
    told = Told()
    async with host() as (server, processor):
        link = {"status": "succeeded", "files": [{"url": f"{server.url}/nothing"}]}
        server.next = [Reply.of({"id": "1"}, 201), Reply.of(link)]
        error = await failed(processor, job, told)
        assert (error.code, error.requeue) == ("processor_error", True)
        assert told.checkpoints[-1]["ended"] is True


async def test_picture_of_another_type_is_what_its_bytes_say(job: Job) -> None:
    """The host calls a WebP a JPEG."""
    async with host() as (server, processor):
        server.results = [picture("image/webp")]
        [output] = await run(processor, job)
        assert (server.result_type, output.type) == ("image/jpeg", "image/webp")


@pytest.mark.parametrize("data", [b"<html>busy</html>", b"GIF89a" + bytes(20), b""])
async def test_file_that_is_no_picture_fails(data: bytes, job: Job) -> None:
    """It is not shown to anybody."""
    async with host() as (server, processor):
        server.results = [data]
        error = await failed(processor, job)
        assert (error.code, error.requeue) == ("processor_error", False)


async def test_bomb_is_passed_on_undecoded_within_the_bound(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is decoded in a sandbox of its own, and a larger one is not read."""
    bomb = picture("image/png", (3000, 3000))
    async with host() as (server, processor):
        server.results = [bomb]
        [output] = await run(processor, job)
        assert output.data == bomb
        monkeypatch.setattr("worker.processors.httpjob.processor.MAX_FILE_BYTES", 4096)
        server.results = [bomb + bytes(8192)]
        assert (await failed(processor, job)).code == "processor_error"


@pytest.mark.parametrize(
    "status",
    [
        {"status": "succeeded"},
        {"status": "succeeded", "files": [{"url": 3}]},
        {"status": "succeeded", "files": "no"},
    ],
)
async def test_answer_of_another_form_is_a_failure(status: object, job: Job) -> None:
    """A host that has changed its answers is told from one that failed by the log."""
    async with host() as (server, processor):
        server.next = [Reply.of({"id": "1"}, 201), Reply.of(status)]
        assert (await failed(processor, job)).code == "processor_error"


@pytest.mark.parametrize("answer", [{}, {"id": None}, {"id": {"x": 1}}, {"id": "x" * 2000}, []])
async def test_submission_without_an_id_is_a_failure(answer: object, job: Job) -> None:
    """There is nothing to ask for."""
    async with host() as (server, processor):
        server.next = [Reply.of(answer, 201)]
        assert (await failed(processor, job)).code == "processor_error"


# -- the error table -------------------------------------------------------------------

FASHN = {"preset": "fashn", "key": "k", "poll": {"every": 0.01}}


@pytest.mark.parametrize(
    ("status", "body", "code", "requeue", "wait"),
    [
        (429, {"error": "OutOfCredits"}, "quota_exceeded", False, None),
        (429, {"error": "ConcurrencyLimitExceeded"}, "backend_busy", False, 5.0),
        (401, {"error": "UnauthorizedAccess"}, "backend_auth", False, None),
        (400, {"error": "BadRequest"}, "processor_error", False, None),
        (500, {"error": "InternalServerError"}, "backend_unreachable", True, None),
        (200, {"status": "failed", "error": {"name": "PoseError"}}, "pose_not_supported", False, None),
        (200, {"status": "failed", "error": {"name": "ImageLoadError"}}, "unreadable_image", False, None),
        (200, {"status": "failed", "error": {"name": "ContentModerationError"}}, "moderated_input", False, None),
        (200, {"status": "failed", "error": {"name": "PipelineError"}}, "processor_error", True, None),
        (200, {"status": "failed", "error": {"name": "Other"}}, "processor_error", False, None),
    ],
)
async def test_error_of_the_host_becomes_one_of_ours(
    status: int, body: dict[str, Any], code: str, requeue: bool, wait: float | None, job: Job
) -> None:
    """By the preset's table, else by the status; its text is shown to nobody."""
    async with ModelHost() as server:
        server.next = [Reply.of(body, status)] if status != 200 else [Reply.of({"id": "1"}), Reply.of(body)]
        processor = HttpJob(url=server.url, **FASHN)
        error = await failed(processor, job)
        assert (error.code, error.requeue, error.retry_after, error.message) == (code, requeue, wait, None)
        await processor.close()
