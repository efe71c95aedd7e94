"""Uploads: what becomes a session, what is refused, how many there may be."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import time
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from PIL import Image

from server.adapters.imaging import sample_photos
from server.config.parsing import UploadRate
from server.domain.tokens import new_token, token_hash
from testkit.fixtures import StartValkey
from testkit.running import StartWeb, Web, until
from testkit.uploads import NOTHING, assert_problem, form, picture, stored, unavailable_database, upload
from tryon.protocol.paths import SESSIONS
from tryon.protocol.states import Status

TEN_A_MINUTE: Final = UploadRate(10, 60)


@pytest.mark.parametrize("name", sorted(sample_photos.SIZES))
async def test_upload_makes_a_session(web: Web, photos: Path, name: str) -> None:
    """The photo is stored upright, without metadata, under the hash of its token."""
    token = new_token()
    answer = await web.client.post(
        SESSIONS,
        files={"image": (name, (photos / name).read_bytes())},
        data={"params": '{"style": "wide"}'},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 201, answer.text
    session = answer.json()
    assert answer.headers["Location"] == session["links"]["self"] == f"{SESSIONS}/{session['session_id']}"
    assert (session["status"], session["seq"], session["terminal"]) == ("created", 1, False)
    assert "client_token" not in session
    row = await web.database.reader.get(session["session_id"])
    assert row is not None
    assert (row.owner, row.params) == (token_hash(token), {"style": "wide"})
    assert row.request_id == answer.headers["X-Request-ID"]
    served = await web.client.get(session["links"]["input"])
    with Image.open(io.BytesIO(served.content)) as upright:
        assert upright.size == sample_photos.SIZES[name]
        assert not upright.getexif()
    assert not any(secret in served.content for secret in sample_photos.SECRETS)


async def test_upload_stores_garment_beside_photo(web: Web, photos: Path) -> None:
    """Two files, one row, one event."""
    answer = await web.client.post(
        SESSIONS,
        files={
            "image": ("me.jpg", (photos / "photo.jpg").read_bytes()),
            "garment": ("shirt.png", (photos / "garment.png").read_bytes()),
        },
    )
    session = answer.json()
    files, rows, events = await stored(web)
    assert len(files) == 2 and (rows, events) == (1, 1)
    garment = await web.client.get(session["links"]["garment"])
    assert (garment.status_code, garment.headers["Content-Type"]) == (200, "image/png")


async def test_upload_without_token_returns_one_once(web: Web) -> None:
    """Only the first answer carries the token that the server made."""
    first = (await upload(web)).json()
    token = first["client_token"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{22,128}", token)
    again = await web.client.get(first["links"]["self"], headers={"Authorization": f"Bearer {token}"})
    assert again.status_code == 200
    assert "client_token" not in again.json()
    assert "client_token" not in (await upload(web, token)).json()


async def test_upload_is_queued_after_commit(web: Web) -> None:
    """The id of a committed session is in the queue."""
    session_id = (await upload(web)).json()["session_id"]
    assert await web.services.queue.contains(session_id, 0, 1)


async def test_upload_accepts_chunked_body(web: Web) -> None:
    """A body needs no Content-Length."""
    request = web.client.build_request("POST", SESSIONS, files=form())
    body = request.read()

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 50):
            yield body[at : at + 50]

    answer = await web.client.post(
        SESSIONS, content=chunks(), headers={"Content-Type": request.headers["Content-Type"]}
    )
    assert answer.status_code == 201


BOUNDARY: Final = {"Content-Type": "multipart/form-data; boundary=x"}
TRUNCATED: Final = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + picture()

REFUSALS: Final[dict[str, tuple[int, dict[str, Any], dict[str, Any]]]] = {
    "bad_multipart": (400, {"content": TRUNCATED, "headers": BOUNDARY}, {}),
    "body_too_large": (413, {"files": form(picture() + b"\0" * 9000)}, {"body_max_bytes": 8192}),
    "not_multipart": (415, {"json": {"image": "photo"}}, {}),
    "unsupported_encoding": (415, {"files": form(), "headers": {"Content-Encoding": "gzip"}}, {}),
    "unsupported_image": (415, {"files": form(b"GIF89a" + b"\0" * 100)}, {}),
    "missing_image": (422, {"files": {"garment": ("g.png", picture())}}, {}),
    "unreadable_image": (422, {"files": form(picture((300, 300), "JPEG")[:700])}, {}),
    "too_many_pixels": (422, {"files": form(picture((200, 200)))}, {"image_max_pixels": 39_999}),
    "image_too_small": (422, {"files": form(picture((63, 200)))}, {}),
    "image_too_large": (422, {"files": form(picture((201, 100)))}, {"image_max_side": 200}),
    "unknown_input": (422, {"files": form(mask=("m.png", picture(), "image/png"))}, {}),
    "bad_params": (422, {"files": form(), "data": {"params": "[1]"}}, {}),
    "invalid_token": (401, {"files": form(), "headers": {"Authorization": "Bearer short"}}, {}),
    "bad_idempotency_key": (400, {"files": form(), "headers": {"Idempotency-Key": "a b"}}, {}),
    "idempotency_needs_token": (422, {"files": form(), "headers": {"Idempotency-Key": "k"}}, {}),
}


@pytest.mark.parametrize("code", REFUSALS)
async def test_refused_upload_leaves_nothing(start_web: StartWeb, code: str) -> None:
    """Each refusal has its status and code, and leaves no file, row or event."""
    status, request, settings = REFUSALS[code]
    web = await start_web(**settings)
    answer = await web.client.post(SESSIONS, **request)
    assert_problem(answer, status, code)
    assert await stored(web) == NOTHING


@pytest.mark.parametrize(
    ("request_", "headers"),
    [
        ({"files": form(), "headers": {"Content-Encoding": "gzip"}}, {"Accept-Encoding": "identity"}),
        ({"files": form(), "headers": {"Content-Encoding": "identity, br"}}, {"Accept-Encoding": "identity"}),
        ({"json": {}}, {"Accept": "multipart/form-data"}),
        ({"content": b"x"}, {"Accept": "multipart/form-data"}),
    ],
)
async def test_unsupported_media_names_what_is_accepted(
    web: Web, request_: dict[str, Any], headers: dict[str, str]
) -> None:
    """A 415 for the body's coding or type says what to send (RFC 9110 15.5.16)."""
    answer = await web.client.post(SESSIONS, **request_)
    assert (answer.status_code, {name: answer.headers.get(name) for name in headers}) == (415, headers)


async def test_identity_is_no_encoding(web: Web) -> None:
    """A body that says it is not compressed is taken (RFC 9110 section 8.4.1)."""
    answer = await web.client.post(SESSIONS, files=form(), headers={"Content-Encoding": "Identity"})
    assert answer.status_code == 201


async def test_bad_garment_refuses_the_upload(web: Web) -> None:
    """A good photo is not kept when its garment is refused."""
    answer = await web.client.post(
        SESSIONS, files=form(garment=("shirt.jpg", picture((300, 300), "JPEG")[:700], "image/jpeg"))
    )
    assert_problem(answer, 422, "unreadable_image")
    assert answer.json()["part"] == "garment"
    assert await stored(web) == NOTHING


async def test_session_lists_its_inputs(web: Web, photos: Path) -> None:
    """By role, with the type, size and hash of what was stored; params and seed too."""
    answer = await web.client.post(
        SESSIONS,
        files={
            "garment": ("shirt.png", (photos / "garment.png").read_bytes()),
            "person": ("me.jpg", (photos / "photo.jpg").read_bytes()),
        },
        data={"params": '{"style": "wide"}'},
    )
    session = answer.json()
    assert answer.status_code == 201, session
    assert [each["role"] for each in session["inputs"]] == ["person", "garment"]
    assert [each["link"] for each in session["inputs"]] == [session["links"]["input"], session["links"]["garment"]]
    for each in session["inputs"]:
        served = await web.client.get(each["link"])
        with Image.open(io.BytesIO(served.content)) as picture:
            assert (each["width"], each["height"]) == picture.size
        assert (each["index"], each["type"], each["bytes"]) == (
            0,
            served.headers["Content-Type"],
            len(served.content),
        )
    assert (session["outputs"], session["preview"]) == ([], None)
    assert session["params"] == {"style": "wide"}
    row = await web.database.reader.get(session["session_id"])
    assert row is not None and session["seed"] == row.seed
    assert 0 <= row.seed < 2**31


async def test_upload_is_507_when_disk_is_full(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of an upload that found no room."""
    real = os.open

    def full(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(".part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **options)

    monkeypatch.setattr("server.adapters.files.local.os.open", full)
    assert_problem(await upload(web), 507, "storage_full")
    monkeypatch.undo()
    assert await stored(web) == NOTHING


async def test_upload_is_503_when_storage_is_unavailable(web: Web) -> None:
    """Nothing is left of an upload without a folder to store it in."""
    folder = web.config.uploads_dir / "inputs"
    folder.rmdir()
    answer = await upload(web)
    folder.mkdir()
    assert_problem(answer, 503, "unavailable")
    assert await stored(web) == NOTHING


async def test_upload_is_503_when_database_is_unavailable(
    start_web: StartWeb, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored files are removed, and the next upload works again."""
    monkeypatch.setattr("server.reconciler.timing.RECONCILE_SECONDS", 0.1)
    web = await start_web(database_url=postgres_url)
    async with unavailable_database(postgres_url):
        answer = await upload(web)
    assert_problem(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    await until(lambda: not any(path.is_file() for path in web.config.uploads_dir.rglob("*")))
    assert await stored(web) == NOTHING
    assert (await upload(web)).status_code == 201


async def test_upload_is_503_when_queue_is_full(start_web: StartWeb) -> None:
    """The refusal comes before the body is read, and says when to retry."""
    web = await start_web(queue_limit=1)
    assert (await upload(web)).status_code == 201
    before = await stored(web)
    answer = await upload(web)
    assert_problem(answer, 503, "queue_full")
    assert answer.headers["Retry-After"] == "10"
    assert await stored(web) == before


async def test_disconnect_during_upload_leaves_nothing(web: Web) -> None:
    """The server goes on, and keeps nothing of the half upload."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(
        b"POST /api/tryon/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + TRUNCATED
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert reader
    assert (await upload(web)).status_code == 201  # the server still works
    files, rows, _ = await stored(web)
    assert (len(files), rows) == (1, 1)


# -- the rate limit --------------------------------------------------------------------


def rate(answer: httpx.Response) -> tuple[int, int]:
    """Return the uploads left, and the seconds until one more."""
    match = re.fullmatch(r'"uploads";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    assert match
    return int(match[1]), int(match[2])


@pytest.mark.usefixtures("patient_limits")
async def test_eleventh_upload_in_a_minute_is_refused(start_web: StartWeb) -> None:
    """The answers count down, and the refusal says when to retry."""
    web = await start_web(upload_rate=TEN_A_MINUTE)
    begun = time.monotonic()
    for left in range(9, -1, -1):
        answer = await upload(web)
        assert answer.status_code == 201
        assert rate(answer)[0] == left
        assert answer.headers["RateLimit-Policy"] == '"uploads";q=10;w=60'
    before = await stored(web)
    answer = await upload(web)
    assert_problem(answer, 429, "rate_limited")
    assert (answer.json()["retryable"], answer.json()["limit"]) == (True, "upload_rate")
    assert rate(answer)[0] == 0
    assert 59 - (time.monotonic() - begun) <= int(answer.headers["Retry-After"]) <= 60
    assert await stored(web) == before


@pytest.mark.usefixtures("patient_limits")
async def test_rate_limit_counts_photos_not_refusals(start_web: StartWeb) -> None:
    """A refused photo counts; a request over the limit does not."""
    web = await start_web(upload_rate=UploadRate(2, 5))
    assert_problem(await web.client.post(SESSIONS, json={}), 415, "not_multipart")
    assert (await upload(web)).status_code == 201
    refused = await upload(web)
    assert_problem(refused, 429, "rate_limited")
    for _ in range(5):
        assert (await upload(web)).status_code == 429
    # Had those consumed anything, the window would never open while they go on.
    async with asyncio.timeout(30):
        while (await upload(web)).status_code != 201:
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("patient_limits")
async def test_rate_limit_counts_by_address(start_web: StartWeb) -> None:
    """Two processes share the count of an address."""
    settings: dict[str, Any] = {"upload_rate": UploadRate(2, 60), "trusted_proxies": (ip_network("127.0.0.0/8"),)}
    one, other = await start_web(**settings), await start_web(**settings)
    statuses = [
        (await upload(web, **{"X-Forwarded-For": address})).status_code
        for address in ("203.0.113.1", "203.0.113.2", "2001:db8::1")
        for web in (one, other, one)
    ]
    assert statuses == [201, 201, 429] * 3


@pytest.mark.usefixtures("patient_limits")
async def test_rate_limit_ignores_forwarded_port(start_web: StartWeb) -> None:
    """A proxy that writes the client's port does not make each connection a client."""
    web = await start_web(upload_rate=UploadRate(2, 60), trusted_proxies=(ip_network("127.0.0.0/8"),))
    nodes = ("203.0.113.7:51234", "203.0.113.7:51235", "203.0.113.7", '"203.0.113.7:80"')
    assert [(await upload(web, **{"X-Forwarded-For": node})).status_code for node in nodes] == [201, 201, 429, 429]


@pytest.mark.usefixtures("patient_limits")
async def test_rate_limit_is_exact_under_concurrency(start_web: StartWeb) -> None:
    """Of 24 uploads at once to two processes, ten are accepted."""
    one, other = await start_web(upload_rate=TEN_A_MINUTE), await start_web(upload_rate=TEN_A_MINUTE)
    answers = await asyncio.gather(*(upload(web) for web in (one, other) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [429] * 14


async def test_rate_limit_spares_reads(start_web: StartWeb) -> None:
    """Reading a session neither counts nor carries the limit."""
    web = await start_web(upload_rate=TEN_A_MINUTE)
    session, token = await web.submit()
    for _ in range(15):
        answer = await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
        assert answer.status_code == 200
        assert "RateLimit" not in answer.headers


# -- without Redis ---------------------------------------------------------------------


async def test_upload_is_queued_when_redis_returns(
    start_web: StartWeb, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload is accepted without Redis; its session is queued later."""
    monkeypatch.setattr("server.reconciler.timing.UNQUEUED_SECONDS", 0.2)
    monkeypatch.setattr("server.reconciler.timing.RECONCILE_SECONDS", 0.2)
    valkey = start_valkey()
    web = await start_web(redis_url=valkey.url)
    valkey.kill()
    answer = await upload(web)
    assert answer.status_code == 201
    session_id = answer.json()["session_id"]
    valkey.start()
    async with asyncio.timeout(10):
        while True:
            row = await web.database.reader.get(session_id)
            assert row is not None and row.status is Status.CREATED
            if await web.services.queue.depth() and await web.services.queue.contains(session_id, 0, row.enqueues):
                break
            await asyncio.sleep(0.02)  # the process that could not queue it, or the reconciler, enqueues it


async def test_rate_limit_is_local_without_redis(start_web: StartWeb, start_valkey: StartValkey) -> None:
    """Each process counts on its own until Redis returns."""
    valkey = start_valkey()
    web = await start_web(redis_url=valkey.url, upload_rate=TEN_A_MINUTE)
    valkey.kill()
    statuses = [(await upload(web)).status_code for _ in range(11)]
    assert statuses == [201] * 10 + [429]
    metrics = (await web.client.get("/metrics")).text
    match = re.search(r"^tryon_limiter_local_total (\S+)", metrics, re.MULTILINE)
    assert match and float(match[1]) >= 11
