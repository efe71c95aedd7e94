"""Reading an upload: its fingerprint, its caps, its pace, and that nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.types import Receive

from server.adapters.files.threads import StorageThreads
from server.config.settings import Config
from server.sessions.roles import DEFAULT_ROLES
from server.system.clock import Clock, SystemClock
from server.web.api import pace, uploads
from server.web.api.form import Form
from server.web.api.parts import Part
from server.web.api.upload_slots import UploadSlot, UploadSlots
from server.web.api.uploads import SPOOL_BYTES, Upload, read_upload
from testkit.clocks import ManualClock
from testkit.running import until
from tests.server.web.api.forms import BOUNDARY, JPEG, PNG, Post, app, form, part, sha
from tryon.protocol.errors import TryOnError


async def test_upload_reads_form_of_client(settings: Config, photos: Path) -> None:
    """A real HTTP client's form with a large photo arrives unchanged."""
    photo = (photos / "large.jpg").read_bytes()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app(settings)), base_url="http://test") as client:
        response = await client.post("/", files={"image": ("foto ü.jpg", photo)}, data={"params": "{}"})
    assert response.json()["image"] == sha(photo)


async def test_fingerprint_ignores_order_names_and_types(post: Post) -> None:
    """Unknown parts and white space in params don't count, either."""
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


async def test_fingerprint_differs_with_content(post: Post) -> None:
    """Any other image, garment or params make another one."""
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


async def test_large_photo_goes_to_anonymous_file(post: Post, settings: Config) -> None:
    """A small one stays in memory; neither leaves a name in the folder."""
    large = JPEG + bytes(3 * SPOOL_BYTES + 17)
    assert (await post(form(part("image", JPEG))))["in_memory"]
    answer = await post([form(part("image", large))[at : at + 65536] for at in range(0, len(large) + 300, 65536)])
    assert not answer["in_memory"]
    assert answer["image"] == sha(large)
    assert list(settings.uploads_dir.iterdir()) == []


async def test_upload_limits_body_size(post: Post, tmp_path: Path) -> None:
    """With and without Content-Length."""
    body = form(part("image", JPEG), part("padding", bytes(3000)))
    for cap, status in ((len(body), 201), (len(body) - 1, 413)):
        config = Config(data_dir=tmp_path, body_max_bytes=cap)
        assert (await post(body, config=config))["status"] == status
        assert (await post([body[:2000], body[2000:]], config=config))["status"] == status


def request_of(receive: Receive, *headers: tuple[bytes, bytes]) -> Request:
    """Return the request of an upload whose body ``receive`` gives."""
    form_type = (b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())
    return Request({"type": "http", "method": "POST", "path": "/", "headers": [form_type, *headers]}, receive)


async def read(
    request: Request, settings: Config, clock: Clock | None = None, threads: StorageThreads | None = None
) -> Upload:
    """Read the upload of a request, with limits of its own."""
    slot = UploadSlot(UploadSlots(settings), "203.0.113.1")
    return await read_upload(
        request,
        settings,
        clock or SystemClock(),
        threads or StorageThreads(),
        slot,
        roles=DEFAULT_ROLES,
        fingerprint=True,
    )


async def refusal_of(request: Request, settings: Config, clock: Clock | None = None) -> str:
    """Return the code that the upload is refused with."""
    with pytest.raises(TryOnError) as caught:
        await read(request, settings, clock)
    return caught.value.code


async def test_refused_upload_is_read_no_further(settings: Config) -> None:
    """The reader asks for no chunk after the one that decides."""
    endless_padding = part("padding", bytes(65536))[:-2]
    stories: dict[str, list[bytes]] = {
        "unsupported_image": [part("image", b"GIF89a" + bytes(26))[:-2]],
        "bad_params": [part("params", bytes(4097))[:-2]],
        "bad_multipart": [f"--{BOUNDARY}x".encode()],
        "body_too_large": [endless_padding, *[bytes(65536)] * (settings.body_max_bytes // 65536 - 1)],
    }
    for code, beginning in stories.items():
        read = 0

        async def receive(beginning: list[bytes] = beginning) -> dict[str, Any]:
            nonlocal read
            read += 1
            chunk = beginning[read - 1] if read <= len(beginning) else bytes(65536)
            return {"type": "http.request", "body": chunk, "more_body": True}

        assert await refusal_of(request_of(receive), settings) == code
        assert read == len(beginning)


async def test_declared_length_is_refused_unread(settings: Config) -> None:
    """A Content-Length above the limit is enough."""

    async def receive() -> dict[str, Any]:
        raise AssertionError("read")

    length = (b"content-length", str(settings.body_max_bytes + 1).encode())
    assert await refusal_of(request_of(receive, length), settings) == "body_too_large"


@pytest.mark.parametrize("size", [2_000_000, 60_000, 5_000])
async def test_body_is_parsed_in_slices(settings: Config, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The event loop goes on after each 64 KiB, whatever chunks wait already."""
    turns, slices = 0, []
    parse = Form.feed

    def feed(form: Form, chunk: bytes) -> None:
        slices.append((turns, len(chunk)))
        parse(form, chunk)

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Form, "feed", feed)
    body = form(part("image", JPEG + b"\r\n--near" * 100_000), part("other", bytes(600_000)))

    chunks = [body[at : at + size] for at in range(0, len(body), size)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    ticking = asyncio.ensure_future(tick())
    with contextlib.closing(await read(request_of(receive), settings)) as upload:
        assert len(upload.images[0].content.read()) == len(JPEG) + 800_000
    ticking.cancel()
    assert sum(size for _, size in slices) == len(body)
    held: Counter[int] = Counter()
    for turn, count in slices:
        held[turn] += count
    assert max(held.values()) <= uploads.SLICE_BYTES


async def test_paused_body_is_refused(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that pauses too long gets too_slow."""
    monkeypatch.setattr(pace, "WINDOW_SECONDS", 0.05)
    silence = asyncio.Event()
    sent = [part("image", JPEG)]

    async def receive() -> dict[str, Any]:
        if not sent:
            await silence.wait()
        return {"type": "http.request", "body": sent.pop(), "more_body": True}

    assert await refusal_of(request_of(receive), settings) == "too_slow"


async def test_dripping_body_is_refused(settings: Config) -> None:
    """Each byte comes well within the allowed pause, yet the window is too poor."""
    clock = ManualClock()
    body = form(part("image", JPEG))
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        clock.advance(0.9)
        sent += 1
        return {"type": "http.request", "body": body[sent - 1 : sent], "more_body": True}

    assert await refusal_of(request_of(receive), settings, clock) == "too_slow"
    assert sent == 17  # the first at which 0.9 s a byte has used up the 15 s


async def test_slow_disk_is_not_the_clients_fault(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the time that is waited for the client counts against it."""
    clock = ManualClock()
    write = Part.write

    def slow(part: Part, folder: Path) -> None:
        clock.advance(60)
        write(part, folder)

    monkeypatch.setattr(Part, "write", slow)
    sent = [
        form(part("image", JPEG + bytes(3 * SPOOL_BYTES)))[at : at + SPOOL_BYTES]
        for at in range(0, 3 * SPOOL_BYTES + 500, SPOOL_BYTES)
    ]

    async def receive() -> dict[str, Any]:
        clock.advance(5)
        return {"type": "http.request", "body": sent.pop(0), "more_body": bool(sent)}

    with contextlib.closing(await read(request_of(receive), settings, clock)) as upload:
        assert len(upload.images[0].content.read()) == len(JPEG) + 3 * SPOOL_BYTES


async def test_full_disk_is_507(post: Post, small_disk: Path) -> None:
    """A full disk gets storage_full and keeps no file."""
    (small_disk / "uploads").mkdir()
    config = Config(data_dir=small_disk)
    body = form(part("image", JPEG + bytes(4 * SPOOL_BYTES)))
    assert await post(body, config=config) == {"status": 507, "code": "storage_full"}
    assert list(config.uploads_dir.iterdir()) == []


async def test_missing_folder_is_503(post: Post, tmp_path: Path) -> None:
    """A folder that cannot be written gets unavailable."""
    body = form(part("image", JPEG + bytes(2 * SPOOL_BYTES)))
    answer = await post(body, config=Config(data_dir=tmp_path / "nowhere"))
    assert answer == {"status": 503, "code": "unavailable"}


def open_files(folder: Path) -> list[str]:
    """Return this process's open files in ``folder``, deleted ones included."""
    targets = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [target for target in targets if target.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
async def test_cancelled_reader_closes_its_files(settings: Config) -> None:
    """The anonymous file is closed when the request is cancelled."""
    wanted = asyncio.Event()
    sent = [bytes(SPOOL_BYTES), part("image", JPEG + bytes(2 * SPOOL_BYTES))[:-2]]

    async def receive() -> dict[str, Any]:
        if not sent:
            wanted.set()
            await asyncio.Event().wait()
        return {"type": "http.request", "body": sent.pop(), "more_body": True}

    reading = asyncio.ensure_future(read(request_of(receive), settings))
    await wanted.wait()
    assert len(open_files(settings.uploads_dir)) == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: not open_files(settings.uploads_dir))


class Closing:
    """Whether a file is closed, and a storage that lets no file be closed meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[str] = []
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        make = tempfile.TemporaryFile

        def slow(**options: Any) -> Any:
            file = make(**options)
            close = file.close

            def hang() -> None:
                self.threads.append(threading.current_thread().name)
                self.hangs.set()
                self.goes_on.wait(10)
                close()

            monkeypatch.setattr(file, "close", hang, raising=False)
            return file

        monkeypatch.setattr(tempfile, "TemporaryFile", slow)


async def test_spooled_photo_is_closed_off_the_loop(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that hangs in close holds one of its threads, not the event loop."""
    closing = Closing(monkeypatch)
    large = form(part("image", JPEG + bytes(2 * SPOOL_BYTES)))
    refused = large[:-10] + b"x" * 80

    for body in (large, refused):
        closing.hangs.clear()

        async def receive(body: bytes = body) -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        with contextlib.suppress(TryOnError):
            (await read(request_of(receive), settings)).close()
        await asyncio.to_thread(closing.hangs.wait, 10)
    assert open_files(settings.uploads_dir)
    closing.goes_on.set()
    await until(lambda: not open_files(settings.uploads_dir))
    assert closing.threads == ["storage", "storage"]


async def test_upload_keeps_photo_of_pillow(post: Post) -> None:
    """A real PNG arrives byte for byte."""
    out = io.BytesIO()
    Image.effect_noise((700, 900), 60).save(out, "PNG")
    assert (await post(form(part("image", out.getvalue()))))["image"] == sha(out.getvalue())
