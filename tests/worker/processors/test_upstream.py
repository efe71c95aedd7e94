"""Calls to upstreams, against a server on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from testkit.processes import free_port
from testkit.upstreams import Reply, Request, UpstreamServer
from tryon.processor import ProcessorError
from worker.processors.upstream import BUSY_SECONDS, MAX_WAIT_SECONDS, Event, Upstream, retry_after

SECRET = "sk-very-secret"
KEY = {"Authorization": f"Bearer {SECRET}"}


@contextlib.asynccontextmanager
async def serving(*replies: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[UpstreamServer]:
    """Serve these replies, one after the other; the last one again and again."""
    left = list(replies)

    async def answer(request: Request) -> Reply:
        return left.pop(0) if len(left) > 1 else left[0]

    async with UpstreamServer(answer, tls=tls) as server:
        yield server


@contextlib.asynccontextmanager
async def upstream(url: str, **options: object) -> AsyncIterator[Upstream]:
    made = Upstream(url, **options)  # type: ignore[arg-type]  # each test says what it needs
    try:
        yield made
    finally:
        await made.close()


def names(**addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """Return a name server; it knows ``model_test`` as ``model.test``."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [addresses[host.replace(".", "_")]]

    return resolve


# -- what is sent and read -------------------------------------------------------------


async def test_call_sends_json_and_credentials() -> None:
    """A path goes below the upstream's own, with its headers."""
    async with serving(Reply.of({"id": 7})) as server, upstream(f"{server.url}/v1/", headers=KEY) as model:
        answer = await model.call("POST", "/run?x=1", json={"a": [1]}, headers={"traceparent": "00-1"})

        assert (answer.status, answer.json()) == (200, {"id": 7})
        [request] = server.requests
        assert (request.method, request.path, request.json()) == ("POST", "/v1/run?x=1", {"a": [1]})
        assert request.headers["authorization"] == KEY["Authorization"]
        assert request.headers["traceparent"] == "00-1"
        assert request.headers["host"] == f"127.0.0.1:{server.port}"


async def test_credentials_stay_with_their_host() -> None:
    """A file on another allowed host is fetched without them, redirected or not."""
    async with serving(Reply(body=b"picture")) as files:
        moved = Reply(302, headers={"Location": f"{files.url}/a.png"})
        async with serving(moved) as server, upstream(server.url, hosts=[files.url], headers=KEY) as model:
            assert (await model.download("/result")).body == b"picture"
            assert (await model.download(f"{files.url}/b.png")).body == b"picture"

            assert "authorization" in server.requests[0].headers
            assert [each.path for each in files.requests] == ["/a.png", "/b.png"]
            assert not any("authorization" in each.headers for each in files.requests)


async def test_credentials_go_to_the_hosts_that_are_named() -> None:
    """Some upstreams answer with the address of another host of theirs."""
    async with (
        serving(Reply.of({})) as other,
        serving(Reply.of({})) as server,
        upstream(server.url, hosts=[other.url], header_hosts=[other.url], headers=KEY) as model,
    ):
        await model.call("GET", f"{other.url}/status")
        assert other.requests[0].headers["authorization"] == KEY["Authorization"]


# -- hosts -----------------------------------------------------------------------------


async def test_redirect_to_private_address_is_refused() -> None:
    """An upstream cannot have its file fetched from inside."""
    async with serving(Reply(body=b"inside")) as inside:
        moved = Reply(302, headers={"Location": f"{inside.url}/latest/meta-data"})
        async with serving(moved) as server, upstream(server.url) as model:
            with pytest.raises(ProcessorError) as failed:
                await model.download("/result")
            assert (failed.value.code, failed.value.requeue) == ("backend_unreachable", False)
            assert inside.requests == []


async def test_call_follows_no_redirect() -> None:
    """What was meant for one path is not sent to another."""
    async with serving(Reply(307, headers={"Location": "/other"})) as server, upstream(server.url) as model:
        answer = await model.call("POST", "/run", json={})
        assert answer.status == 307
        with pytest.raises(ProcessorError, match="processor_error"):
            answer.checked()
        assert len(server.requests) == 1


async def test_endless_redirects_end() -> None:
    """A file that is always elsewhere is no file."""
    async with serving(Reply(302, headers={"Location": "/next"})) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError, match="processor_error"):
            await model.download("/result")
        assert len(server.requests) == 4


async def test_connection_goes_to_the_address_that_was_judged() -> None:
    """The name is resolved once a call: a second answer cannot lead elsewhere."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    async with serving(Reply.of({})) as server:
        url = f"http://model.test:{server.port}"
        async with upstream(url, private_hosts=["model.test"], resolve=rebinding) as model:
            assert (await model.call("GET", "/")).ok
            assert (asked, server.requests[0].headers["host"]) == (["model.test"], f"model.test:{server.port}")

            with pytest.raises(ProcessorError, match="backend_unreachable"):
                await model.call("GET", "/")
            assert len(server.requests) == 1


async def test_public_name_with_private_address_is_refused() -> None:
    """Loopback is reached by a name only where the settings say so."""
    async with serving(Reply.of({})) as server:
        url = f"http://model.test:{server.port}"
        async with upstream(url, resolve=names(model_test="127.0.0.1")) as model:
            with pytest.raises(ProcessorError) as failed:
                await model.call("GET", "/")
            assert (failed.value.code, failed.value.requeue) == ("backend_unreachable", False)
            assert server.requests == []


async def test_next_address_is_tried_when_one_does_not_accept() -> None:
    """A name may stand for an address that is down."""

    async def two(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with serving(Reply.of({})) as server:
        url = f"http://model.test:{server.port}"
        async with upstream(url, private_hosts=["model.test"], resolve=two) as model:
            assert (await model.call("POST", "/", json={"x": 1})).ok
            assert server.requests[0].json() == {"x": 1}


def authority(folder: Path, name: str) -> tuple[ssl.SSLContext, str]:
    """Return the TLS context of a server of this name, and the file to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, chain = folder / "ca.pem", folder / "server.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(trusted.read_bytes() + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context, str(trusted)


async def test_certificate_must_be_that_of_the_name(tmp_path: Path) -> None:
    """The connection goes to an address, the certificate is checked for the name."""
    tls, trusted = authority(tmp_path, "model.test")
    addresses = names(model_test="127.0.0.1", other_test="127.0.0.1")
    private = ["model.test", "other.test"]
    async with serving(Reply.of({}), tls=tls) as server:
        for name, works in (("model.test", True), ("other.test", False)):
            url = f"https://{name}:{server.port}"
            async with upstream(url, private_hosts=private, resolve=addresses, ca_file=trusted) as model:
                if works:
                    assert (await model.call("GET", "/")).ok
                else:
                    with pytest.raises(ProcessorError, match="backend_unreachable"):
                        await model.call("GET", "/")
        assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["", "model", "ftp://model.test", "https://user:pass@model.test", "https://"])
def test_malformed_url_is_an_error_at_the_start(url: str) -> None:
    """The error does not repeat what may hold a password."""
    with pytest.raises(ValueError, match=r"URL of the upstream (?!.*pass)"):
        Upstream(url)


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-sécret"])
def test_malformed_key_is_an_error_at_the_start(key: str) -> None:
    """Such as one with the line break of its file; the error does not repeat it."""
    with pytest.raises(ValueError, match="header Authorization") as failed:
        Upstream("https://model.test", headers={"Authorization": f"Bearer {key}"})
    assert "sk-" not in repr(failed.value)


# -- failures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "requeue", "wait"),
    [
        (401, "backend_auth", False, None),
        (403, "backend_auth", False, None),
        (402, "quota_exceeded", False, None),
        (409, "backend_busy", False, BUSY_SECONDS),
        (429, "backend_busy", False, BUSY_SECONDS),
        (503, "backend_busy", False, BUSY_SECONDS),
        (408, "backend_unreachable", True, None),
        (500, "backend_unreachable", True, None),
        (502, "backend_unreachable", True, None),
        (529, "backend_unreachable", True, None),
        (400, "processor_error", False, None),
        (404, "processor_error", False, None),
        (422, "processor_error", False, None),
    ],
)
async def test_status_becomes_its_failure(status: int, code: str, requeue: bool, wait: float | None) -> None:
    """One table for all processors."""
    async with serving(Reply.of({"detail": "no"}, status)) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError) as failed:
            (await model.call("GET", "/")).checked()
    found = failed.value
    assert (found.code, found.requeue, found.retry_after) == (code, requeue, wait)


async def test_busy_upstream_says_how_long() -> None:
    """The worker waits as long as the upstream wants."""
    async with serving(Reply.of({}, 429, Retry_After="17")) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError) as failed:
            await model.download("/")
    assert failed.value.retry_after == 17


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17", 17),
        ("0.2", 1),
        ("0", 1),
        ("-5", 1),
        ("99999999", MAX_WAIT_SECONDS),
        ("Thu, 26 Nov 2026 15:00:30 GMT", 30),
        ("Thu, 26 Nov 2026 14:00:00 GMT", 1),
        *((text, None) for text in ("", "soon", "nan", "inf", "Thu, 99 Nov 2026 14:00:00 GMT", "1e999")),
    ],
)
def test_retry_after_is_read_within_bounds(text: str, seconds: float | None) -> None:
    """Seconds or a date; nonsense counts as none."""
    now = datetime.datetime(2026, 11, 26, 15, tzinfo=datetime.UTC).timestamp()
    assert retry_after({"Retry-After": text}, now=now) == seconds


async def test_unreachable_upstream_is_tried_again() -> None:
    """Nothing listens: another attempt may find it."""
    async with upstream(f"http://127.0.0.1:{free_port()}") as model:
        with pytest.raises(ProcessorError) as failed:
            await model.call("GET", "/")
    assert (failed.value.code, failed.value.requeue) == ("backend_unreachable", True)


async def test_slow_upstream_is_left_in_time() -> None:
    """A byte now and then does not keep a call alive."""
    ended = asyncio.Event()

    async def drip() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b" "
                await asyncio.sleep(0.02)
        finally:
            ended.set()

    async with serving(Reply(stream=drip())) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError, match="backend_unreachable"):
            await model.call("GET", "/", seconds=1.0)
        await asyncio.wait_for(ended.wait(), 10)


async def test_lost_connection_is_no_answer() -> None:
    """Half an answer is none."""
    async with serving(Reply(body=b'{"a": 1}', length=100)) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError) as failed:
            await model.call("GET", "/")
    assert failed.value.requeue


@pytest.mark.parametrize("announced", [True, False])
async def test_answer_beyond_the_bound_is_refused(announced: bool) -> None:
    """Whether it says how long it is, or not."""

    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * 65536

    reply = Reply(body=b"x" * 5000) if announced else Reply(stream=endless())
    async with serving(reply) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError, match="processor_error"):
            await model.call("GET", "/", max_bytes=4096)


async def test_compressed_answer_is_refused() -> None:
    """It was not asked for, and could grow without a bound."""
    reply = Reply(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    async with serving(reply) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError, match="processor_error"):
            await model.call("GET", "/")
        assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"NaN", b"\xff", b"9" * 400, b"1e999"])
async def test_answer_that_is_no_json_is_an_error(body: bytes) -> None:
    """A proxy's page of HTML, and what a parser stumbles over."""
    async with serving(Reply(body=body)) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError, match="processor_error"):
            (await model.call("GET", "/")).json()


async def test_errors_and_logs_hold_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Neither keys, nor signed links, nor what an upstream answers."""
    caplog.set_level(logging.DEBUG)
    path = "/run?signature=sk-signed"
    replies = (
        Reply.of({"echo": SECRET}, 401),
        Reply(body=b"x" * 9000),
        Reply(302, headers={"Location": f"http://10.0.0.1{path}"}),
    )
    texts = []
    async with serving(*replies) as server, upstream(server.url, headers=KEY) as model:
        with pytest.raises(ProcessorError) as unauthorized:
            (await model.call("POST", path)).checked()
        with pytest.raises(ProcessorError) as too_large:
            await model.download(path, max_bytes=4096)
        with pytest.raises(ProcessorError) as redirected:
            await model.download(path)
        for failed in (unauthorized, too_large, redirected):
            texts.append(f"{failed.value} {failed.value.__cause__} {failed.value.message}")
        texts.append(repr(model))
    assert len(caplog.records) >= 3
    shown = "\n".join([*texts, caplog.text])
    assert "sk-" not in shown
    assert "10.0.0.1 " in shown or "10.0.0.1:80" in shown


# -- Server-Sent Events ----------------------------------------------------------------


def pieces(*parts: bytes) -> Reply:
    async def stream() -> AsyncGenerator[bytes, None]:
        for part in parts:
            yield part
            await asyncio.sleep(0)

    return Reply(stream=stream(), headers={"Content-Type": "text/event-stream; charset=utf-8"})


async def test_events_are_read_however_they_are_cut() -> None:
    """Names, ids, several lines of data, comments, and all three line ends."""
    text = b'\xef\xbb\xbf: hello\n\nevent: start\r\ndata: {"a":1}\r\n\r\nid: 7\rdata: x\rdata:y\r\rdata:  z\n\ndata: unfinished'
    for parts in ([text], [text[i : i + 1] for i in range(len(text))], [text[:40], text[40:]]):
        async with (
            serving(pieces(*parts)) as server,
            upstream(server.url) as model,
            model.events("POST", "/", json={}) as events,
        ):
            found = [event async for event in events]
        assert found == [Event("start", '{"a":1}'), Event("message", "x\ny", "7"), Event("message", " z", "7")]
    assert found[0].json() == {"a": 1}


async def test_event_is_read_before_the_next_one_comes() -> None:
    """Progress is shown while the upstream works."""
    read = asyncio.Event()

    async def stream() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        await read.wait()
        yield b"data: 2\n\n"

    reply = Reply(stream=stream(), headers={"Content-Type": "text/event-stream"})
    async with serving(reply) as server, upstream(server.url) as model, model.events("GET", "/") as events:
        assert (await anext(events)).data == "1"
        read.set()
        assert (await anext(events)).data == "2"
        assert server.requests[0].headers["accept"] == "text/event-stream"


async def test_silent_stream_is_left() -> None:
    """A stream that says nothing any more is a lost connection."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        await asyncio.Event().wait()

    reply = Reply(stream=stream(), headers={"Content-Type": "text/event-stream"})
    async with serving(reply) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError) as failed:
            async with model.events("GET", "/", idle_seconds=0.3) as events:
                _ = [event async for event in events]
    assert (failed.value.code, failed.value.requeue) == ("backend_unreachable", True)


@pytest.mark.parametrize("parts", [(b"data: " + b"x" * 5000,), (b"data: x\n",) * 2000, (b"x" * 5000,)])
async def test_event_beyond_the_bound_is_refused(parts: tuple[bytes, ...]) -> None:
    """One line without an end, or one event of endless lines."""
    async with serving(pieces(*parts)) as server, upstream(server.url) as model:
        with pytest.raises(ProcessorError, match="processor_error"):
            async with model.events("GET", "/", max_event_bytes=4096) as events:
                _ = [event async for event in events]


async def test_stream_that_is_refused_is_its_failure() -> None:
    """A status, or a page that is no stream."""
    async with serving(Reply.of({}, 409, Retry_After="3"), Reply.of({})) as server, upstream(server.url) as model:
        for code in ("backend_busy", "processor_error"):
            with pytest.raises(ProcessorError, match=code):
                async with model.events("PUT", "/"):
                    pass
