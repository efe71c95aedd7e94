"""Traces and errors of real processes, at a collector and a Sentry on loopback."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from server.telemetry import sentry
from testkit.fixtures import StartStack
from testkit.photos import small
from testkit.processes import environment
from testkit.running import until
from testkit.upstreams import Reply, Request, UpstreamServer
from tryon.protocol.paths import SESSIONS

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
SENTINEL: Final = "Hildegard-Sentinel"
"""What only a person would send: it must reach no collector."""


class Collector:
    """A server that keeps what it is sent: an OTLP collector, and a Sentry."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        return Reply(200, b"{}" if "envelope" in request.path else b"", {"Content-Type": "application/x-protobuf"})

    def bodies(self) -> list[bytes]:
        """Return the bodies, uncompressed."""
        return [_plain(each) for each in self.requests]

    def spans(self) -> dict[str, tuple[str, Span]]:
        """Return the service and the span, by the span's name."""
        found: dict[str, tuple[str, Span]] = {}
        for request, body in zip(self.requests, self.bodies(), strict=True):
            if request.path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    (service,) = (
                        each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
                    )
                    for scope in resource.scope_spans:
                        found |= {span.name: (service, span) for span in scope.spans}
        return found

    def errors(self) -> list[dict[str, Any]]:
        """Return the events that a Sentry was sent."""
        found = []
        for request, body in zip(self.requests, self.bodies(), strict=True):
            if "envelope" in request.path:
                lines = body.split(b"\n")
                for head, payload in zip(lines[1::2], lines[2::2], strict=False):
                    if json.loads(head)["type"] == "event":
                        found.append(json.loads(payload))
        return found


def _plain(request: Request) -> bytes:
    match request.headers.get("content-encoding"):
        case "gzip":
            return gzip.decompress(request.body)
        case "deflate":
            return zlib.decompress(request.body)
        case _:
            return request.body


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    async with UpstreamServer(collector.answer) as server:
        yield collector, server.url


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def submit(client: httpx.AsyncClient) -> dict[str, Any]:
    """Upload a photo with everything that a person might send; wait for its end."""
    answer = await client.post(
        SESSIONS,
        files={"person": (f"{SENTINEL}.jpg", small(), "image/jpeg")},
        headers={
            "traceparent": f"00-{TRACE}-{PARENT}-01",
            "tracestate": f"who={SENTINEL}",
            "baggage": f"user={SENTINEL}",
            "User-Agent": SENTINEL,
            "X-Request-ID": SENTINEL,
            "Authorization": f"Bearer {SENTINEL}-{'t' * 30}",
            "Cookie": f"name={SENTINEL}",
        },
        params={"name": SENTINEL},
    )
    made: dict[str, Any] = answer.json()
    client.headers["Authorization"] = f"Bearer {SENTINEL}-{'t' * 30}"
    while not made["terminal"]:
        made = (await client.get(f"{SESSIONS}/{made['session_id']}", params={"since": made["seq"], "wait": 30})).json()
    return made


async def test_trace_runs_from_request_to_upstream_and_frame(stack: StartStack, tmp_path: Path) -> None:
    """One trace: the client's span, the request's, the worker's, the model's call."""
    seen: list[str] = []

    async def model(request: Request) -> Reply:
        seen.append(request.headers["traceparent"])
        return Reply(200, small(), {"Content-Type": "image/jpeg"})

    async with collecting() as (collector, url), UpstreamServer(model) as upstream:
        job = tmp_path / "job.toml"
        job.write_text(f'url = "{upstream.url}"\nsubmit.path = "/run"\nsubmit.json.person = "{{person}}"\n')
        product = await stack(
            TRYON_PROCESSOR="httpjob",
            TRYON_PROCESSOR_OPTIONS=str(job),
            TRYON_TRACES_URL=f"{url}/v1/traces",
            TRYON_TRACES_HEADERS="X-Key=of the collector",
            TRYON_TRACE_FRAMES="yes",
        )
        async with httpx.AsyncClient(base_url=product.url, timeout=60) as client:
            session = await submit(client)
            assert session["status"] == "completed"
            missed = (await client.get(f"{SESSIONS}/{session['session_id']}", params={"since": 0})).json()["missed"]
            history = (await client.get(f"{SESSIONS}/{session['session_id']}/history")).json()["events"]
        await product.stop()  # what waits is exported at the end
    spans = collector.spans()
    web, request = spans[f"POST {SESSIONS}"]
    worker, run = spans["run session"]
    assert (web, worker) == ("tryon-web", "tryon-worker")
    assert {span.trace_id.hex() for span in (request, run)} == {TRACE}
    assert (request.parent_span_id.hex(), run.parent_span_id) == (PARENT, request.span_id)
    assert attributes(request) == {
        "http.request.method": "POST", "http.route": SESSIONS, "http.response.status_code": 201,
    }  # fmt: skip
    assert attributes(run) == {
        "tryon.session_id": session["session_id"], "tryon.attempt": 1, "tryon.processor": "httpjob",
        "tryon.outcome": "completed",
    }  # fmt: skip
    carried = f"00-{TRACE}-{run.span_id.hex()}-01"
    assert seen == [carried]
    created, begun, completed = (frame["trace"] for frame in missed)
    assert created == begun == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert completed == carried
    assert not any("trace" in each or "trace" in each["data"] for each in history)
    assert all(each.headers["x-key"] == "of the collector" for each in collector.requests)
    assert SENTINEL.encode() not in b"".join(collector.bodies())


async def test_frames_carry_no_trace_by_default(stack: StartStack) -> None:
    """Without the settings nothing of a client's trace is in any answer."""
    product = await stack(TRYON_MOCK_SECONDS="0", TRYON_MOCK_FAILURE_RATE="0")
    async with httpx.AsyncClient(base_url=product.url, timeout=60) as client:
        session = await submit(client)
        answer = await client.get(f"{SESSIONS}/{session['session_id']}", params={"since": 0})
    assert len(answer.json()["missed"]) == 3
    assert "trace" not in answer.text


async def test_collector_that_is_away_disturbs_nothing(stack: StartStack) -> None:
    """One line of log an outage; sessions end as always, and so does the process."""
    product = await stack(
        TRYON_TRACES_URL="http://127.0.0.1:9/v1/traces", TRYON_MOCK_SECONDS="0", TRYON_MOCK_FAILURE_RATE="0"
    )
    async with httpx.AsyncClient(base_url=product.url, timeout=60) as client:
        assert (await submit(client))["status"] == "completed"
    await product.stop()
    assert not any("Traceback" in line for line in (*product.lines, *product.errors))


async def test_error_reaches_sentry_without_personal_data(stack: StartStack, tmp_path: Path) -> None:
    """Its type, its places in the code, the constant text of its line; nothing else."""
    (tmp_path / "broken.py").write_text(
        "from tryon.processor import Info, Role\n"
        "class Broken:\n"
        "    info = Info(name='broken', version='1', roles=(Role(name='person', required=True),))\n"
        "    async def run(self, job, report):\n"
        f"        note = '{SENTINEL}'\n"
        "        raise RuntimeError(note)\n"
    )
    async with collecting() as (collector, url):
        product = await stack(
            TRYON_PROCESSOR="broken:Broken",
            TRYON_SENTRY_DSN=f"{url.replace('//', '//publickey@')}/1",
            PYTHONPATH=f"{tmp_path}:{environment()['PYTHONPATH']}",
        )
        async with httpx.AsyncClient(base_url=product.url, timeout=60) as client:
            assert (await submit(client))["status"] == "failed"
        await until(collector.errors, seconds=30)
        await product.stop()
    (error, *_) = collector.errors()
    assert error["logentry"] == {"message": "The processor failed on session %s"}
    assert error["tags"] == {"part": "worker"}
    assert error["exception"]["values"][-1]["stacktrace"]["frames"]
    assert SENTINEL.encode() not in b"".join(collector.bodies())


def test_unknown_field_of_an_event_stays_here() -> None:
    """A newer SDK may add fields: the list says what may go."""
    event = {
        "event_id": "1", "user": {"email": SENTINEL}, "request": {"url": SENTINEL}, "extra": {"x": SENTINEL},
        "breadcrumbs": {"values": [SENTINEL]}, "logentry": {"message": "x %s", "params": [SENTINEL], "formatted": SENTINEL},
        "exception": {"values": [{"type": "E", "value": SENTINEL, "stacktrace": {"frames": [
            {"function": "f", "lineno": 1, "vars": {"x": SENTINEL}, "context_line": SENTINEL}]}}]},
        "invented": SENTINEL,
    }  # fmt: skip
    assert SENTINEL not in json.dumps(sentry.cleaned(event))


def test_line_of_a_library_is_sent_without_its_text() -> None:
    """Asyncio formats the text of a lost exception into its own line."""
    event = {"logger": "asyncio", "logentry": {"message": f"Task exception was never retrieved: {SENTINEL}"}}
    assert sentry.cleaned(event) == {"logger": "asyncio"}
    assert "logentry" not in sentry.cleaned(event | {"logger": "tryonix"})
    assert (
        sentry.cleaned(event | {"logger": "tryon.web", "logentry": {"message": "x %s"}})["logentry"]["message"]
        == "x %s"
    )


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("TRYON_TRACES_URL", "collector:4318",
         "TRYON_TRACES_URL: must be an http or https URL, without a user name (found its value)"),
        ("TRYON_TRACES_HEADERS", f"Authorization {SENTINEL}",
         "TRYON_TRACES_HEADERS: must be Name=value, several separated by commas (found its value)"),
        ("TRYON_SENTRY_DSN", f"http://{SENTINEL}", "TRYON_SENTRY_DSN: must look like https://KEY@HOST/PROJECT (found its value)"),
    ],
)  # fmt: skip
def test_malformed_setting_stops_the_start_in_one_line(setting: str, value: str, said: str, tmp_path: Path) -> None:
    """Without the key that it may hold."""
    assert _serve(tmp_path, {setting: value}) == f"tryon: {said}\n"


@pytest.fixture
def without_extras(tmp_path: Path) -> str:
    """Give a folder that hides the packages of the extras from Python."""
    for name in ("opentelemetry", "sentry_sdk"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value", "extra"),
    [
        ("TRYON_TRACES_URL", "http://127.0.0.1:9/v1/traces", "otel"),
        ("TRYON_SENTRY_DSN", "http://key@127.0.0.1:9/1", "sentry"),
    ],
)
def test_missing_extra_is_named(setting: str, value: str, extra: str, without_extras: str, tmp_path: Path) -> None:
    """One line says what to install."""
    said = _serve(tmp_path, {setting: value, "PYTHONPATH": f"{without_extras}:{environment()['PYTHONPATH']}"})
    assert said.startswith(f"tryon: {setting} needs packages that are missing (")
    assert said.endswith(f"): pip install 'tryon-push[{extra}]'\n")


def _serve(folder: Path, settings: dict[str, str]) -> str:
    """Return what `tryon serve` says when it does not start."""
    more = {"TRYON_START_CHECK": "no", "TRYON_PORT": "0", "TRYON_REDIS_URL": "redis://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve"],
        cwd=folder,
        env=environment(more | settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return "".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("tryon:"))
