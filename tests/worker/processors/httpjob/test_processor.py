"""Runs against a fake of the hosts: the whole way, taking over, cleaning up."""

from __future__ import annotations

import asyncio
import base64
import tomllib
from typing import Any

import pytest

from testkit.model_host import ModelHost, picture
from testkit.upstreams import Reply
from tests.worker.processors.httpjob.hosting import Told, data_url, failed, host, run
from tryon.processor import AttemptLost, Job, ProcessorError, Reference
from worker.processors.httpjob import HttpJob

# -- the whole way ---------------------------------------------------------------------


async def test_result_is_submitted_polled_and_fetched(job: Job) -> None:
    """The inputs go as the template says; progress, place, cost and files come back."""
    told = Told()
    async with host() as (server, processor):
        server.results = [picture(), picture(colour="red")]
        outputs = await run(processor, job, told)

        assert [each.data for each in outputs] == server.results
        [work] = server.works.values()
        [person, *garments] = (data_url(each) for each in job.inputs)
        assert work.body == {"person": person, "garments": garments, "seed": 7}
        assert all(each.headers["authorization"] == "Bearer sk-secret" for each in server.server.requests)
        assert server.server.requests[0].headers["traceparent"] == "00-ab-cd-01"
    assert told.checkpoints == [{"works": [{"id": "1"}], "ended": False}]
    assert told.used == {"credits": 1.5}
    assert {"progress": 0.1, "stage": "working", "upstream_position": 1} in told.reports


async def test_five_lines_of_toml_run_a_model(job: Job) -> None:
    """A model that answers at once, with base64."""
    async with ModelHost() as server:
        lines = [
            f'url = "{server.url}"',
            'submit.path = "/try-on"',
            'submit.json.person = "{person}"',
            'submit.json.garment = "{garment}"',
            'result.files = "image"',
        ]
        processor = HttpJob(**tomllib.loads("\n".join(lines)))
        [output] = await run(processor, job)
        assert (output.data, output.type) == (server.results[0], "image/jpeg")
        assert server.works["1"].body == {"person": data_url(job.inputs[0]), "garment": data_url(job.inputs[1])}
        await processor.close()


async def test_model_may_answer_with_the_picture_itself(job: Job) -> None:
    """Neither JSON nor a poll."""
    async with ModelHost() as server:
        server.next = [Reply(body=picture("image/png"))]
        processor = HttpJob(url=server.url, submit={"path": "/x", "json": {"p": "{person}"}}, usage={"cost_usd": 0.5})
        told = Told()
        [output] = await run(processor, job, told)
        assert (output.type, told.used) == ("image/png", {"cost_usd": 0.5})
        await processor.close()


UPLOADED: dict[str, Any] = {
    "roles": {"person": {"send": "url"}, "garment": {"send": "url", "count": 2, "merge": True}},
    "upload": {
        "path": "/files",
        "url": "urls.get",
        "keep": {"file": "id"},
        "forget": {"method": "DELETE", "path": "/files/{file}"},
    },
}
"""Options of a host that keeps what is uploaded."""


async def test_pictures_are_uploaded_where_the_host_wants_links(job: Job) -> None:
    """The links stand in the request."""
    upload = {**UPLOADED["upload"], "field": "content"}
    async with host(roles=UPLOADED["roles"], upload=upload) as (server, processor):
        await run(processor, job)
        uploads = server.server.asked("POST", "/files")
        assert len(uploads) == 2
        assert b'name="content"; filename="image.jpg"' in uploads[0].body
        assert job.inputs[0].read() in uploads[0].body
        [work] = server.works.values()
        assert work.body == {"person": f"{server.url}/inputs/1", "garments": [f"{server.url}/inputs/2"], "seed": 7}


async def test_uploads_are_in_the_checkpoint_and_forgotten(job: Job) -> None:
    """A photo on the host's disk is gone when its session is erased."""
    told = Told()
    async with host(**UPLOADED) as (server, processor):
        await run(processor, job, told)
        assert server.uploads == {"1", "2"}
        files = [{"file": "1"}, {"file": "2"}]
        assert told.checkpoints == [
            {"works": [], "ended": False, "uploads": files[:1]},
            {"works": [], "ended": False, "uploads": files},
            {"works": [{"id": "3"}], "ended": False, "uploads": files},
        ]
        assert processor.forget is not None
        await processor.forget(Reference(key=job.key), told.checkpoints[-1])
        assert server.uploads == set()
        assert server.works["3"].state == "forgotten"


@pytest.mark.parametrize("taken", [2, 1])
@pytest.mark.parametrize("before", [{}, {"works": [], "uploads": [{"file": "9"}]}], ids=["first", "after-a-killed-one"])
async def test_uploads_for_work_that_was_not_taken_are_forgotten(taken: int, before: dict[str, Any], job: Job) -> None:
    """A host that is busy, also with an upload: another one may do the work."""
    told = Told()
    async with host(**UPLOADED) as (server, processor):
        uploads = [Reply.of({"id": each, "urls": {"get": f"{server.url}/inputs/{each}"}}) for each in "12"[:taken]]
        server.uploads = {*"12"[:taken], "9"}
        server.next = [*uploads, Reply.of({}, 429, Retry_After="17")]
        with pytest.raises(ProcessorError) as error:
            await processor.resume(job, before, told)
        assert (error.value.code, error.value.retry_after) == ("backend_busy", 17)
        assert server.uploads == ({"9"} if not before else set())
        assert told.checkpoints[-1] == {}, "nothing keeps the session on this host"


async def test_uploads_stay_known_while_the_host_cannot_forget_them(job: Job) -> None:
    """Their deletion fails, too: the checkpoint goes on naming them."""
    told = Told()
    async with host(**UPLOADED) as (server, processor):
        server.next = [Reply.of({"id": "1", "urls": {"get": "x"}}), Reply.of({}, 429), Reply.of({}, 500)]
        assert (await failed(processor, job, told)).code == "backend_busy"
        assert told.checkpoints[-1]["uploads"] == [{"file": "1"}]


async def test_upload_is_made_from_templates_as_well(job: Job) -> None:
    """Path and headers of a form."""
    upload = {"path": "/{vars.folder}", "url": "urls.get", "headers": {"X-Of": "{session}", "X-No": "{params.no}"}}
    roles = {"person": {"send": "url"}}
    async with host(roles=roles, upload=upload, forget=None, vars={"folder": "files"}) as (server, processor):
        await run(processor, job)
        [asked] = server.server.asked("POST", "/files")
        assert (asked.headers["x-of"], "x-no" in asked.headers) == (job.session_id, False)


@pytest.mark.parametrize("keep", [{"id": "nowhere"}, {"id": "list"}, {"id": "long"}])
async def test_name_that_nothing_needs_may_be_missing(keep: dict[str, str], job: Job) -> None:
    """The result is in the answer: there is nothing to ask for, stop or delete."""
    told = Told()
    submit = {"path": "/try-on", "json": {"p": "{person}"}, "keep": keep}
    cancel = {"method": "POST", "path": "/jobs/{id}/cancel"}
    async with ModelHost() as server:
        processor = HttpJob(url=server.url, submit=submit, cancel=cancel, result={"files": "image"})
        image = base64.b64encode(server.results[0]).decode()
        server.next = [Reply.of({"image": image, "list": [[1]], "long": "x" * 5000})]
        [output] = await run(processor, job, told)
        assert (output.data, told.checkpoints) == (server.results[0], [])
        server.next = [Reply.of({"image": image, "nowhere": "7", "list": "7", "long": "7"})]
        await run(processor, job, told)
        assert told.checkpoints == [{"works": [{"id": "7"}], "ended": True}]
        assert processor.cancel is not None
        await processor.cancel(Reference(key=job.key), told.checkpoints[-1])
        assert len(server.server.requests) == 2, "it has ended: there is nothing to cancel"
        await processor.close()


async def test_name_that_forget_needs_may_not_be_missing(job: Job) -> None:
    """Else the receipt would promise a deletion that nobody can ask for."""
    submit = {"path": "/try-on", "json": {"p": "{person}"}, "keep": {"id": "id", "more": "more"}}
    async with ModelHost() as server:
        forget = {"method": "DELETE", "path": "/jobs", "headers": {"X-Id": "{id}"}}
        processor = HttpJob(url=server.url, submit=submit, forget=forget, result={"files": "image"})
        assert (await failed(processor, job)).code == "processor_error"
        await processor.close()


@pytest.mark.parametrize("name", ["fal", "fashn", "replicate", "bfl", "pruna"])
async def test_preset_takes_the_way_that_its_host_documents(name: str, job: Job) -> None:
    """The answers are those of the documentation, the host is a fake."""
    async with ModelHost() as server:
        base = f"{server.url}/v1"
        data = base64.b64encode(server.results[0]).decode()
        submitted: dict[str, dict[str, Any]] = {
            "fal": {
                "request_id": "r",
                "status_url": f"{base}/r/status",
                "response_url": f"{base}/r",
                "cancel_url": f"{base}/r/cancel",
            },
            "fashn": {"id": "r", "error": None},
            "replicate": {"id": "r", "status": "starting"},
            "bfl": {"id": "r", "polling_url": f"{base}/get_result?id=r", "cost": 4.5},
            "pruna": {"id": "r", "get_url": f"{base}/predictions/status/r"},
        }
        ended: dict[str, list[dict[str, Any]]] = {
            "fal": [
                {"status": "IN_QUEUE", "queue_position": 0},
                {"status": "COMPLETED"},
                {"images": [{"url": f"{server.url}/files/0"}]},
            ],
            "fashn": [{"id": "r", "status": "completed", "output": [f"data:image/png;base64,{data}"], "error": None}],
            "replicate": [
                {"status": "succeeded", "output": f"{server.url}/files/0", "metrics": {"predict_time": 2.5}},
            ],
            "bfl": [{"id": "r", "status": "Ready", "result": {"sample": f"{server.url}/files/0"}}],
            "pruna": [{"status": "succeeded", "generation_url": f"{server.url}/files/0"}],
        }
        uploads = (
            [Reply.of({"urls": {"get": f"{base}/files/{number}"}}) for number in range(3)] if name == "pruna" else []
        )
        server.next = [*uploads, *(Reply.of(each) for each in (submitted[name], *ended[name]))]
        processor = HttpJob(preset=name, key="sk-secret", url=base, hosts=[server.url], poll={"every": 0.01})
        told = Told()

        [output] = await run(processor, job, told)

        assert output.data == server.results[0]
        assert told.checkpoints[0]["works"][0]
        begun = server.server.requests[len(uploads)]
        assert begun.method == "POST"
        assert begun.json()
        if name != "replicate" and name != "pruna":
            assert told.used
        if name == "fal":
            assert told.reports[-1]["upstream_position"] == 1
            assert begun.headers["x-fal-object-lifecycle-preference"] == '{"expiration_duration_seconds": 3600}'
        await processor.close()


async def test_preview_is_shown_once_and_again_when_it_changes(job: Job) -> None:
    """One that cannot be had, or is none, is left out."""
    told = Told()
    async with host() as (server, processor):
        server.polls = 5
        await run(processor, job, told)
        assert processor.info.preview
        fetched = [each.path for each in server.server.asked("GET", "/previews")]
        assert fetched == ["/previews/1", "/previews/2"]
        assert told.previews == [
            (picture(size=(24, 32), colour=f"rgb(0, 0, {number})"), "image/jpeg") for number in (1, 2)
        ]
        for nothing in (f"{server.url}/nothing", "http://10.0.0.1/x", "data:text/plain;base64,aGk=", "x", 7):
            server.next = [
                Reply.of({"id": "9"}, 201),
                Reply.of({"status": "running", "preview": nothing}),
                Reply.of({"status": "failed"}),
            ]
            told = Told()
            if nothing in (f"{server.url}/nothing", "x"):
                server.next.insert(2, Reply.of({}, 404))
            assert (await failed(processor, job, told)).code == "processor_error"
            assert told.previews == []


async def test_usage_adds_up_over_the_answers(job: Job) -> None:
    """Credits first, seconds later; a fixed price counts when all is done."""
    usage = {"credits": "price", "gpu_seconds": "metrics.time", "cost_usd": 0.5}
    async with host(usage=usage) as (server, processor):
        files = [{"url": f"{server.url}/files/0"}]
        server.next = [
            Reply.of({"id": "1", "price": 4.5}, 201),
            Reply.of({"status": "succeeded", "files": files, "metrics": {"time": 2}}),
        ]
        told = Told()
        await run(processor, job, told)
        assert told.used == {"credits": 4.5, "gpu_seconds": 2, "cost_usd": 0.5}

        server.next = [Reply.of({"id": "1", "price": 4.5}, 201), Reply.of({"status": "failed"})]
        told = Told()
        await failed(processor, job, told)
        assert told.used == {"credits": 4.5}


# -- a worker that takes over ----------------------------------------------------------


async def test_next_worker_attaches_and_pays_nothing(job: Job) -> None:
    """The first one was killed while it waited."""
    told = Told()
    async with host() as (server, processor):
        server.polls = None
        first = asyncio.create_task(run(processor, job, told))
        await asyncio.wait_for(server.polled.wait(), 10)
        first.cancel()
        await asyncio.wait([first])
        server.polls = 0
        other = HttpJob(**server.options())

        again = Told()
        result = await asyncio.wait_for(other.resume(job, told.checkpoints[-1], again), 10)

        assert isinstance(result, list)
        assert result[0].data == server.results[0]
        assert len(server.works) == 1
        assert again.checkpoints == []
        await other.close()


async def test_checkpoint_is_there_before_the_first_poll(job: Job) -> None:
    """An attempt that is no longer its session's stops at once."""
    told = Told(lost=True)
    async with host() as (server, processor):
        with pytest.raises(AttemptLost):
            await run(processor, job, told)
        assert server.server.asked("GET", "/jobs") == []


async def test_work_with_an_id_of_our_own_is_in_the_checkpoint_first(job: Job) -> None:
    """Even an answer that never came does not hide it."""
    submit = {"path": "/jobs/{id}", "method": "PUT", "chosen": {"id": "{job}"}}
    async with host(submit=submit) as (server, processor):
        server.next = [Reply.of({}, 500)]
        told = Told()
        error = await failed(processor, job, told)
        assert (error.code, error.requeue) == ("backend_unreachable", True)
        assert told.checkpoints == [{"works": [{"id": "s1-1"}], "ended": False}]
        assert server.server.asked("PUT", "/jobs/s1-1")


async def test_lost_work_is_begun_anew_by_the_next_attempt_only(job: Job) -> None:
    """One attempt begins one piece of work."""
    told = Told()
    async with host() as (server, processor):
        server.next = [Reply.of({"id": "9"}, 201), Reply.of({}, 404)]
        error = await failed(processor, job, told)
        assert (error.code, error.requeue, len(server.works)) == ("processor_error", True, 0)

        again = Told()
        await asyncio.wait_for(processor.resume(job, told.checkpoints[-1], again), 10)
        assert len(server.works) == 1
        assert again.checkpoints == [{"works": [{"id": "9"}, {"id": "1"}], "ended": False}]


async def test_failed_work_that_may_be_tried_again_is_begun_anew(job: Job) -> None:
    """Asking for it once more would only find it failed once more."""
    errors = [{"at": "error.name", "equals": ["PipelineError"], "code": "processor_error", "requeue": True}]
    told = Told()
    async with host(errors=errors) as (server, processor):
        server.failure = {"error": {"name": "PipelineError"}}
        assert (await failed(processor, job, told)).requeue
        assert told.checkpoints[-1] == {"works": [{"id": "1"}], "ended": True}

        server.failure = {}
        again = Told()
        await asyncio.wait_for(processor.resume(job, told.checkpoints[-1], again), 10)
        assert sorted(server.works) == ["1", "2"]


@pytest.mark.parametrize("checkpoint", [{}, {"works": 3}, {"works": [3]}, {"works": []}, {"cog": "x"}])
async def test_checkpoint_of_another_processor_begins_anew(checkpoint: dict[str, Any], job: Job) -> None:
    """After a fall-over, or a change of the options."""
    async with host() as (server, processor):
        await asyncio.wait_for(processor.resume(job, checkpoint, Told()), 10)
        assert len(server.works) == 1


# -- clean up --------------------------------------------------------------------------


async def test_forget_deletes_all_that_was_begun(job: Job) -> None:
    """Also work that an earlier attempt has begun; what is gone already is fine."""
    async with host() as (server, processor):
        await run(processor, job)
        await run(processor, job)
        assert processor.forget is not None
        checkpoint = {"works": [{"id": "1"}, {"id": "2"}, {"id": "404"}], "ended": False}
        await processor.forget(Reference(key=job.key), checkpoint)
        assert [each.state for each in server.works.values()] == ["forgotten", "forgotten"]
        await processor.forget(Reference(key=job.key), {"nothing": "of ours"})


async def test_clean_up_fails_until_the_host_has_done_it(job: Job) -> None:
    """The reconciler comes again; work that has ended already is stopped."""
    async with host() as (server, processor):
        await run(processor, job)
        assert processor.cancel is not None
        server.next = [Reply.of({}, 500)]
        with pytest.raises(ProcessorError, match="backend_unreachable"):
            await processor.cancel(Reference(key=job.key), {"works": [{"id": "1"}]})
        server.next = [Reply.of({"status": "ALREADY_COMPLETED"}, 400)]
        await processor.cancel(Reference(key=job.key), {"works": [{"id": "1"}]})


def test_processor_promises_only_what_its_host_offers() -> None:
    """FASHN documents neither a cancel nor a delete."""
    fashn, fal = HttpJob(preset="fashn", key="k"), HttpJob(preset="fal", key="k")
    assert (fashn.cancel, fashn.forget, fashn.info.cancel) == (None, None, False)
    assert (fal.cancel is not None, fal.forget, fal.info.cancel) == (True, None, True)
