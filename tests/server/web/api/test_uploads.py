"""The multipart reader: what it takes, what it refuses and when, and that nothing stays
behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from server.config.settings import Config
from server.system.clock import SystemClock
from server.web.api import uploads
from server.web.api.form import MAX_PARTS
from server.web.api.uploads import SPOOL_BYTES, read_upload
from tryon.protocol.errors import TryOnError

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
JPEG = b"\xff\xd8\xff\xe0" + random.Random(1).randbytes(300)
PNG = b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(200) + b"\r\n--" + BOUNDARY.encode()[:20] + b"\r\n-"

Answer = dict[str, Any]
Post = Callable[..., Any]


def app(config: Config, heard: asyncio.Queue[Answer] | None = None) -> Starlette:
    """Answers with what it understood, and tells ``heard``, too: a client that went
    away can't be answered.
    """

    async def submit(request: Request) -> JSONResponse:
        try:
            with await read_upload(request, config, SystemClock(), fingerprint=True) as upload:
                answer = {
                    "code": "ok",
                    "image": hashlib.sha256(upload.image.read()).hexdigest(),
                    "garment": hashlib.sha256(upload.garment.read()).hexdigest() if upload.garment else None,
                    "params": upload.params,
                    "fingerprint": upload.fingerprint,
                    "in_memory": isinstance(upload.image, io.BytesIO),
                }
            status = 201
        except TryOnError as error:
            answer, status = {"code": error.code}, error.status
        if heard is not None:
            heard.put_nowait(answer)
        return JSONResponse(answer, status)

    return Starlette(routes=[Route("/", submit, methods=["POST"])])


def part(name: str, content: bytes, *headers: str, filename: str | None = None) -> bytes:
    shown = f'; filename="{filename}"' if filename is not None else ""
    lines = [f'Content-Disposition: form-data; name="{name}"{shown}', *headers]
    return "\r\n".join([f"--{BOUNDARY}", *lines, "", ""]).encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    config = Config(data_dir=tmp_path)
    config.uploads_dir.mkdir()
    return config


@pytest.fixture
def post(settings: Config) -> Post:
    async def post(
        body: bytes | Iterable[bytes],
        *,
        config: Config = settings,
        content_type: str | None = f"multipart/form-data; boundary={BOUNDARY}",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        async def chunked() -> AsyncIterator[bytes]:
            for chunk in body:
                assert isinstance(chunk, bytes)
                yield chunk

        sent = {"content-type": content_type} if content_type is not None else {}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app(config)), base_url="http://test") as client:
            content = body if isinstance(body, bytes) else chunked()
            response = await client.post("/", content=content, headers=sent | (headers or {}))
        answer: Answer = {"status": response.status_code, **response.json()}
        if answer["code"] == "ok":
            return answer
        assert set(answer) == {"status", "code"}
        return answer

    return post


async def test_a_browsers_form_is_understood(post: Post) -> None:
    answer = await post(
        form(
            part("image", JPEG, "Content-Type: image/jpeg", filename="photo.jpg"),
            part("garment", PNG, "Content-Type: image/png", filename="shirt.png"),
            part("params", b'{"size": "M", "seed": 7}'),
        )
    )
    assert (answer["status"], answer["image"], answer["garment"]) == (201, sha(JPEG), sha(PNG))
    assert answer["params"] == {"size": "M", "seed": 7}


async def test_a_real_clients_form_is_understood(settings: Config, photos: Path) -> None:
    photo = (photos / "large.jpg").read_bytes()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app(settings)), base_url="http://test") as client:
        response = await client.post("/", files={"image": ("foto ü.jpg", photo)}, data={"params": "{}"})
    assert response.json()["image"] == sha(photo)


async def test_order_names_and_types_of_the_parts_do_not_matter(post: Post) -> None:
    first = await post(
        form(part("image", JPEG, filename="a.jpg"), part("garment", PNG), part("params", b'{"a":1,"b":2}'))
    )
    second = await post(
        form(
            part("params", b' {"b": 2,\n "a": 1}', "Content-Type: application/json", filename="params.json"),
            part("unknown", b"ignored" * 1000),
            part("garment", PNG, "Content-Type: text/plain", filename="evil.exe"),
            part("image", JPEG, "Content-Type: image/gif", "X-Other: 1", filename="../../etc/passwd"),
        )
    )
    assert first["status"] == second["status"] == 201
    assert first["fingerprint"] == second["fingerprint"]


async def test_any_difference_in_content_makes_another_fingerprint(post: Post) -> None:
    bodies = [
        form(part("image", JPEG)),
        form(part("image", JPEG + b"\0")),
        form(part("image", PNG)),
        form(part("image", JPEG), part("garment", PNG)),
        form(part("image", PNG), part("garment", JPEG)),
        form(part("image", JPEG), part("garment", PNG), part("params", b'{"a":1}')),
        form(part("image", JPEG), part("params", b'{"a":1}')),
        form(part("image", JPEG), part("params", b'{"a":"1"}')),
    ]
    assert len({(await post(body))["fingerprint"] for body in bodies}) == len(bodies)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 31, 64])
async def test_the_body_may_be_cut_into_chunks_anywhere(post: Post, size: int) -> None:
    body = form(part("params", b"{}"), part("garment", PNG), part("image", JPEG))
    answer = await post(body[at : at + size] for at in range(0, len(body), size))
    assert (answer["image"], answer["garment"]) == (sha(JPEG), sha(PNG))


async def test_a_small_photo_stays_in_memory_and_a_large_one_goes_to_an_anonymous_file(
    post: Post, settings: Config
) -> None:
    large = JPEG + bytes(3 * SPOOL_BYTES + 17)
    assert (await post(form(part("image", JPEG))))["in_memory"]
    answer = await post([form(part("image", large))[at : at + 65536] for at in range(0, len(large) + 300, 65536)])
    assert not answer["in_memory"]
    assert answer["image"] == sha(large)
    assert list(settings.uploads_dir.iterdir()) == []


async def test_an_empty_garment_or_params_field_means_none(post: Post) -> None:
    answer = await post(form(part("image", JPEG), part("garment", b"", filename=""), part("params", b"")))
    assert (answer["garment"], answer["params"]) == (None, {})
    assert answer["fingerprint"] == (await post(form(part("image", JPEG))))["fingerprint"]


async def test_epilogue_and_preamble_are_ignored(post: Post) -> None:
    assert (await post(b"\r\n" + form(part("image", JPEG)) + b"\r\nepilogue"))["status"] == 201


# Refusals


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "image/jpeg",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=x",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-dataX; boundary=x",
    ],
)
async def test_what_is_no_form_is_not_multipart(post: Post, content_type: str | None) -> None:
    answer = await post(form(part("image", JPEG)), content_type=content_type)
    assert answer == {"status": 415, "code": "not_multipart"}


async def test_a_boundary_has_at_most_70_characters(post: Post) -> None:
    for length, status in ((70, 201), (71, 400), (5000, 400)):
        boundary = "b" * length
        body = form(part("image", JPEG)).replace(BOUNDARY.encode(), boundary.encode())
        assert (await post(body, content_type=f"multipart/form-data; boundary={boundary}"))["status"] == status


@pytest.mark.parametrize(
    "quoted", ['multipart/form-data; boundary="x y"', 'Multipart/Form-Data; charset=utf-8; BOUNDARY="x y"']
)
async def test_a_quoted_boundary_is_understood(post: Post, quoted: str) -> None:
    body = form(part("image", JPEG)).replace(BOUNDARY.encode(), b"x y")
    assert (await post(body, content_type=quoted))["status"] == 201


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        JPEG,
        b"--other\r\n",
        form(part("image", JPEG)).replace(b"\r\n", b"\n"),
        part("image", JPEG),
        part("image", JPEG) + b"--",
        form(part("image", JPEG))[:-4],
        form(f"--{BOUNDARY}\r\n\r\n".encode() + JPEG + b"\r\n"),
        form(f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\n".encode() + JPEG + b"\r\n"),
        form(f'--{BOUNDARY}\r\nContent-Disposition: attachment; name="image"\r\n\r\n'.encode() + JPEG + b"\r\n"),
        form(f"--{BOUNDARY}\r\nContent-Disposition form-data\r\n\r\n".encode() + JPEG + b"\r\n"),
        form(part("image", JPEG, 'Content-Disposition: form-data; name="params"')),
        form(part("image", JPEG), part("image", JPEG)),
        form(part("image", JPEG), part("image", b"")),
        form(part("image", JPEG), part("garment", PNG), part("garment", PNG)),
        form(part("image", JPEG), part("params", b"{}"), part("params", b"{}")),
        form(part("image", JPEG, *(f"X-{n}: 1" for n in range(20)))),
        form(part("image", JPEG, f"X-Long: {'x' * 5000}")),
        form(part("image", JPEG), *(part(f"n{n}", b"") for n in range(MAX_PARTS))),
    ],
)
async def test_a_malformed_body_is_a_bad_multipart(post: Post, body: bytes) -> None:
    assert await post(body) == {"status": 400, "code": "bad_multipart"}


async def test_as_many_parts_as_allowed_are_allowed(post: Post) -> None:
    body = form(*(part(f"n{n}", b"") for n in range(MAX_PARTS - 1)), part("image", JPEG))
    assert (await post(body))["status"] == 201


async def test_a_body_cut_at_any_byte_is_a_bad_multipart(post: Post) -> None:
    body = form(part("garment", PNG), part("params", b'{"a": 1}'), part("image", JPEG))
    for cut in range(body.rindex(b"--") + 2):  # what follows the last hyphen is an epilogue
        assert (await post(body[:cut]))["code"] == "bad_multipart", cut


@pytest.mark.parametrize(
    "body", [form(), form(part("garment", PNG)), form(part("image", b"")), form(part("Image", JPEG))]
)
async def test_a_form_without_a_photo_is_missing_it(post: Post, body: bytes) -> None:
    answer = await post(body)
    assert answer in ({"status": 422, "code": "missing_image"}, {"status": 400, "code": "bad_multipart"})
    assert answer["code"] == "missing_image" or body == form()  # no part at all is not even a form (RFC 2046)


@pytest.mark.parametrize("name", ["image", "garment"])
@pytest.mark.parametrize("content", [b"GIF89a" + bytes(100), b"x", b"<svg/>", b"%PDF-1.7" + bytes(50), b"\xff\xd8"])
async def test_content_decides_what_an_image_is(post: Post, name: str, content: bytes) -> None:
    other = {"image": "garment", "garment": "image"}[name]
    body = form(part(other, JPEG), part(name, content, "Content-Type: image/jpeg", filename="photo.jpg"))
    assert await post(body) == {"status": 415, "code": "unsupported_image"}


@pytest.mark.parametrize(
    "params",
    [
        b"[]",
        b"1",
        b"null",
        b'"x"',
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1}{}',
        b'{"a": "\xff"}',
        b'{"\xff": 1}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\u0000"}',
        b'{"a\\u0000": 1}',
        b'{"a": 9223372036854775808}',
        b'{"a": ' + b"9" * 4000 + b"}",
        b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"a": ' + b"[" * 16 + b"]" * 16 + b"}",
        b'{"a": "' + b"x" * 4088 + b'"}',
    ],
)
async def test_params_are_a_small_strict_json_object(post: Post, params: bytes) -> None:
    assert await post(form(part("image", JPEG), part("params", params))) == {"status": 422, "code": "bad_params"}


async def test_params_may_fill_their_4_kib(post: Post) -> None:
    value = {"a": "x" * (4096 - 9), "b": {}}
    text = json.dumps({"a": "x" * (4096 - 9)}).encode()
    assert len(text) == 4096
    assert (await post(form(part("image", JPEG), part("params", text))))["params"] == {"a": value["a"]}
    for text in (
        b'{"a": ' + b"[" * 15 + b"]" * 15 + b"}",
        b'{"a": [9223372036854775807, -1.5, true, null, "\xc3\xa4"]}',
    ):
        assert (await post(form(part("image", JPEG), part("params", text))))["params"] == json.loads(text)


async def test_an_image_above_its_cap_is_too_large_and_one_at_it_is_not(post: Post, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, image_max_bytes=2000, body_max_bytes=10_000)
    for name in ("image", "garment"):
        other = part("garment" if name == "image" else "image", JPEG)
        fits, too_large = (form(other, part(name, JPEG + bytes(size - len(JPEG)))) for size in (2000, 2001))
        assert (await post(fits, config=config))["status"] == 201
        assert await post(too_large, config=config) == {"status": 413, "code": "body_too_large"}


async def test_the_whole_body_has_a_cap_also_without_a_content_length(post: Post, tmp_path: Path) -> None:
    body = form(part("image", JPEG), part("padding", bytes(3000)))
    for cap, status in ((len(body), 201), (len(body) - 1, 413)):
        config = Config(data_dir=tmp_path, body_max_bytes=cap)
        assert (await post(body, config=config))["status"] == status
        assert (await post([body[:2000], body[2000:]], config=config))["status"] == status


async def test_only_what_is_needed_to_refuse_is_read(settings: Config) -> None:
    """Counted in chunks of the body that the reader asked for."""
    endless_padding = part("padding", bytes(65536))[:-2]
    stories: dict[str, list[bytes]] = {
        "unsupported_image": [part("image", b"GIF89a" + bytes(26))[:-2]],
        "bad_params": [part("params", bytes(4097))[:-2]],
        "bad_multipart": [b"this is no form"],
        "body_too_large": [endless_padding, *[bytes(65536)] * (settings.body_max_bytes // 65536 - 1)],
    }
    for code, beginning in stories.items():
        read = 0

        async def receive(beginning: list[bytes] = beginning) -> dict[str, Any]:
            nonlocal read
            read += 1
            chunk = beginning[read - 1] if read <= len(beginning) else bytes(65536)
            return {"type": "http.request", "body": chunk, "more_body": True}

        headers = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]
        request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
        with pytest.raises(TryOnError) as caught:
            await read_upload(request, settings, SystemClock(), fingerprint=True)
        assert caught.value.code == code
        assert read == len(beginning)


async def test_a_declared_length_above_the_cap_is_refused_unread(settings: Config) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("read")

    headers = [
        (b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode()),
        (b"content-length", str(settings.body_max_bytes + 1).encode()),
    ]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    with pytest.raises(TryOnError) as caught:
        await read_upload(request, settings, SystemClock(), fingerprint=True)
    assert caught.value.code == "body_too_large"


async def test_mutated_bodies_raise_only_domain_errors(post: Post) -> None:
    chance = random.Random(3)
    original = form(part("image", JPEG, filename="a"), part("params", b'{"a": [1, "x"]}'), part("garment", PNG))
    codes = set()
    for _ in range(1500):
        body = bytearray(original)
        for _ in range(chance.choice((1, 2, 4))):
            at = chance.randrange(len(body))
            if chance.random() < 0.5:
                at = body.index(b"--", chance.randrange(len(body) // 2)) + chance.randrange(120)
            match chance.randrange(4):
                case 0:
                    body[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del body[at : at + chance.randrange(1, 8)]
                case 2:
                    body[at:at] = chance.choice(
                        (b"\r", b"\n", b"\r\n", b"--", b'"', b";", b"\0", b":", BOUNDARY.encode())
                    )
                case _:
                    body[at:at] = body[at : at + chance.randrange(1, 200)]
        codes.add((await post(bytes(body)))["code"])
    assert {"ok", "bad_multipart", "unsupported_image"} <= codes
    assert codes <= {"ok", "bad_multipart", "unsupported_image", "missing_image", "bad_params"}


# Time, disk and what stays


async def test_a_body_that_pauses_too_long_is_given_up(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PAUSE_SECONDS", 0.05)
    silence = asyncio.Event()
    sent = [part("image", JPEG)]

    async def receive() -> dict[str, Any]:
        if not sent:
            await silence.wait()
        return {"type": "http.request", "body": sent.pop(), "more_body": True}

    headers = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]
    with pytest.raises(TryOnError) as caught:
        await read_upload(
            Request({"type": "http", "method": "POST", "headers": headers}, receive),
            settings,
            SystemClock(),
            fingerprint=True,
        )
    assert caught.value.code == "bad_multipart"


async def test_a_body_that_drips_is_given_up(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes well within the pause that is allowed, yet the whole is too slow."""
    monkeypatch.setattr(uploads, "PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(uploads, "SLOWEST_RATE", 1000)
    body = iter(form(part("image", JPEG + bytes(5000))))

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": bytes([next(body)]), "more_body": True}

    headers = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]
    with pytest.raises(TryOnError) as caught:
        await read_upload(
            Request({"type": "http", "method": "POST", "headers": headers}, receive),
            settings,
            SystemClock(),
            fingerprint=True,
        )
    assert caught.value.code == "bad_multipart"


async def test_a_full_disk_is_told_and_leaves_nothing(post: Post, small_disk: Path) -> None:
    (small_disk / "uploads").mkdir()
    config = Config(data_dir=small_disk)
    body = form(part("image", JPEG + bytes(4 * SPOOL_BYTES)))
    assert await post(body, config=config) == {"status": 507, "code": "storage_full"}
    assert list(config.uploads_dir.iterdir()) == []


async def test_a_missing_folder_is_unavailable(post: Post, tmp_path: Path) -> None:
    body = form(part("image", JPEG + bytes(2 * SPOOL_BYTES)))
    answer = await post(body, config=Config(data_dir=tmp_path / "nowhere"))
    assert answer == {"status": 503, "code": "unavailable"}


def open_files(folder: Path) -> list[str]:
    """Files of this process in ``folder``, deleted ones too."""
    targets = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [target for target in targets if target.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
async def test_a_reader_that_is_cancelled_leaves_no_file_open(settings: Config) -> None:
    wanted = asyncio.Event()
    sent = [bytes(SPOOL_BYTES), part("image", JPEG + bytes(2 * SPOOL_BYTES))[:-2]]

    async def receive() -> dict[str, Any]:
        if not sent:
            wanted.set()
            await asyncio.Event().wait()
        return {"type": "http.request", "body": sent.pop(), "more_body": True}

    headers = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]
    reading = asyncio.ensure_future(
        read_upload(
            Request({"type": "http", "method": "POST", "headers": headers}, receive),
            settings,
            SystemClock(),
            fingerprint=True,
        )
    )
    await wanted.wait()
    assert len(open_files(settings.uploads_dir)) == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert open_files(settings.uploads_dir) == []


# Over a real socket


class Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """The test run's own signals stay as they are."""


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[tuple[int, asyncio.Queue[Answer]]]:
    """The app on a real uvicorn: its port, and what it understood of each request."""
    heard: asyncio.Queue[Answer] = asyncio.Queue()
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listening.getsockname()[1]
    server = Server(
        uvicorn.Config(app(config, heard), http="httptools", lifespan="off", log_config=None, access_log=False)
    )
    running = asyncio.ensure_future(server._serve([listening]))
    try:
        yield port, heard
    finally:
        server.should_exit = True
        await running


def head(*headers: str) -> bytes:
    lines = ["POST / HTTP/1.1", "Host: test", f"Content-Type: multipart/form-data; boundary={BOUNDARY}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def talk(port: int, *sent: bytes) -> bytes:
    """What the server answers, up to the end of its JSON."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for data in sent:
            writer.write(data)
            await writer.drain()
        async with asyncio.timeout(10):
            return await reader.readuntil(b"}")
    finally:
        writer.close()


async def test_a_client_that_goes_away_at_any_byte_leaves_nothing(settings: Config) -> None:
    body = form(part("garment", PNG), part("image", JPEG))
    data = head(f"Content-Length: {len(body)}") + body
    start = len(data) - len(body)
    async with serving(settings) as (port, heard):
        for cut in range(start + 1, len(data)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data[:cut])
            writer.write_eof()
            answer = await asyncio.wait_for(heard.get(), 10)
            assert answer == {"code": "bad_multipart"}, cut
            await reader.read()
            writer.close()
            await writer.wait_closed()
    assert list(settings.uploads_dir.iterdir()) == []


async def test_chunked_transfer_is_understood_and_capped(settings: Config) -> None:
    def chunked(data: bytes, size: int) -> bytes:
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    async with serving(settings) as (port, _):
        answer = await talk(port, head("Transfer-Encoding: chunked"), chunked(form(part("image", JPEG)), 7))
        assert answer.startswith(b"HTTP/1.1 201 ")
        endless = part("image", JPEG)[:-2] + bytes(settings.image_max_bytes)
        answer = await talk(port, head("Transfer-Encoding: chunked"), chunked(endless, 65536))
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_sends_everything_before_it_listens_gets_the_refusal(settings: Config) -> None:
    body = form(part("image", b"GIF89a" + bytes(20_000_000)))
    async with serving(settings) as (port, _):
        answer = await talk(port, head(f"Content-Length: {len(body)}"), body)
        assert answer.startswith(b"HTTP/1.1 415 ")
        body = form(part("image", JPEG + bytes(40_000_000)))
        answer = await talk(port, head(f"Content-Length: {len(body)}"), body)
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_listens_gets_the_refusal_before_it_has_sent_the_rest(settings: Config) -> None:
    async with serving(settings) as (port, _):
        answer = await talk(port, head("Content-Length: 20000000"), part("image", b"GIF89a" + bytes(26))[:-2])
        assert answer.startswith(b"HTTP/1.1 415 ")
        answer = await talk(port, head("Content-Length: 99000000"))
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_one_slow_client_keeps_nobody_waiting(settings: Config) -> None:
    async with serving(settings) as (port, heard):
        _, slow = await asyncio.open_connection("127.0.0.1", port)
        body = form(part("image", JPEG))
        slow.write(head(f"Content-Length: {len(body)}") + body[:50])
        await slow.drain()
        answer = await talk(port, head(f"Content-Length: {len(body)}"), body)
        assert answer.startswith(b"HTTP/1.1 201 ")
        slow.write(body[50:])
        assert [(await heard.get())["code"] for _ in range(2)] == ["ok", "ok"]
        slow.close()


async def test_a_photo_of_pillow_arrives_as_it_was_sent(post: Post) -> None:
    out = io.BytesIO()
    Image.effect_noise((700, 900), 60).save(out, "PNG")
    assert (await post(form(part("image", out.getvalue()))))["image"] == sha(out.getvalue())
