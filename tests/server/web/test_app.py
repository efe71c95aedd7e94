"""The HTTP side of a web process: uploads and their refusals, limits, links, headers,
health, and what is never told.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest
from PIL import Image
from sqlalchemy import func, select
from websockets.asyncio.client import connect

from server.adapters.database import tables
from server.config.parsing import UploadRate
from server.config.settings import Config
from server.domain.session import new_session_id
from server.domain.tokens import Signer, new_token, token_hash
from server.web.app import ALLOWED_HEADERS, EXPOSED_HEADERS
from server.web.serving.http import MAX_HEAD_BYTES, HttpProtocol
from testkit import photos as photo_maker
from testkit.fixtures import StartStack, StartValkey
from testkit.running import Client, Web, running_web, until
from tests.server.web.conftest import StartWeb
from tryon.protocol.errors import CODES
from tryon.protocol.states import GoneReason, Status

SESSIONS: Final = "/api/tryon/sessions"
TEN_A_MINUTE: Final = UploadRate(10, 60)
MakeConfig = Callable[..., Config]


def picture(size: tuple[int, int] = (100, 120), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(buffer, kind)
    return buffer.getvalue()


def form(image: bytes | None = None, **more: Any) -> dict[str, Any]:
    """The parts of an upload."""
    return {"image": ("photo.png", picture() if image is None else image, "image/png")} | more


async def upload(web: Web, token: str | None = None, **headers: str) -> httpx.Response:
    return await web.client.post(SESSIONS, files=form(), headers=headers | ({"X-Client-Token": token} if token else {}))


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    """RFC 9457, with everything the contract adds."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "retryable", "request_id"}
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"] and problem["detail"] and isinstance(problem["retryable"], bool)
    assert problem["request_id"] == answer.headers["X-Request-ID"]


async def stored(web: Web) -> tuple[list[str], int, int]:
    """All files, and how many rows and events there are."""
    root = web.config.uploads_dir
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    async with web.database.connections.read() as connection:
        rows = (await connection.execute(select(func.count()).select_from(tables.sessions))).scalar_one()
        events = (await connection.execute(select(func.count()).select_from(tables.events))).scalar_one()
    return files, rows, events


NOTHING: Final[tuple[list[str], int, int]] = ([], 0, 0)


# -- uploads ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(photo_maker.SIZES))
async def test_a_real_photo_becomes_a_session(web: Web, photos: Path, name: str) -> None:
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
    row = await web.database.reading.get(session["session_id"])
    assert row is not None
    assert (row.owner, row.params) == (token_hash(token), {"style": "wide"})
    assert row.request_id == answer.headers["X-Request-ID"]
    served = await web.client.get(session["links"]["input"])
    with Image.open(io.BytesIO(served.content)) as upright:
        assert upright.size == photo_maker.SIZES[name]
        assert not upright.getexif()
    assert not any(secret in served.content for secret in photo_maker.SECRETS)


async def test_the_garment_is_kept_beside_the_photo(web: Web, photos: Path) -> None:
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


async def test_a_client_without_a_token_is_given_one_once(web: Web) -> None:
    first = (await upload(web)).json()
    token = first["client_token"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{22,128}", token)
    again = await web.client.get(first["links"]["self"], headers={"Authorization": f"Bearer {token}"})
    assert again.status_code == 200
    assert "client_token" not in again.json()
    assert "client_token" not in (await upload(web, token)).json()


async def test_an_upload_is_queued_after_its_commit(web: Web) -> None:
    session_id = (await upload(web)).json()["session_id"]
    assert await web.services.queue.contains(session_id, 0, 1)


async def test_a_chunked_body_without_a_length_is_as_good(web: Web) -> None:
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
    "unsupported_image": (415, {"files": form(b"GIF89a" + b"\0" * 100)}, {}),
    "missing_image": (422, {"files": {"garment": ("g.png", picture())}}, {}),
    "unreadable_image": (422, {"files": form(picture((300, 300), "JPEG")[:700])}, {}),
    "too_many_pixels": (422, {"files": form(picture((200, 200)))}, {"image_max_pixels": 39_999}),
    "image_too_small": (422, {"files": form(picture((63, 200)))}, {}),
    "image_too_large": (422, {"files": form(picture((201, 100)))}, {"image_max_side": 200}),
    "bad_params": (422, {"files": form(), "data": {"params": "[1]"}}, {}),
    "invalid_token": (401, {"files": form(), "headers": {"Authorization": "Bearer short"}}, {}),
    "bad_idempotency_key": (400, {"files": form(), "headers": {"Idempotency-Key": "a b"}}, {}),
    "idempotency_needs_token": (422, {"files": form(), "headers": {"Idempotency-Key": "k"}}, {}),
}


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refused_upload_says_why_and_leaves_nothing(start_web: StartWeb, code: str) -> None:
    status, request, settings = REFUSALS[code]
    web = await start_web(**settings)
    answer = await web.client.post(SESSIONS, **request)
    assert_problem(answer, status, code)
    assert await stored(web) == NOTHING


async def test_a_good_photo_with_a_bad_garment_leaves_nothing(web: Web) -> None:
    answer = await web.client.post(
        SESSIONS, files=form(garment=("shirt.jpg", picture((300, 300), "JPEG")[:700], "image/jpeg"))
    )
    assert_problem(answer, 422, "unreadable_image")
    assert await stored(web) == NOTHING


async def test_a_full_disk_is_507_and_leaves_nothing(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(".part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **options)

    monkeypatch.setattr("server.adapters.files.local.os.open", full)
    assert_problem(await upload(web), 507, "storage_full")
    monkeypatch.undo()
    assert await stored(web) == NOTHING


async def test_a_storage_that_is_away_is_503_and_leaves_nothing(web: Web) -> None:
    folder = web.config.uploads_dir / "inputs"
    folder.rmdir()
    answer = await upload(web)
    folder.mkdir()
    assert_problem(answer, 503, "unavailable")
    assert await stored(web) == NOTHING


@contextlib.asynccontextmanager
async def database_away(postgres_url: str) -> AsyncIterator[None]:
    """Meanwhile PostgreSQL takes no connection to this database, and has cut those
    there were.
    """
    server, _, name = postgres_url.replace("+asyncpg", "").rpartition("/")
    admin = await asyncpg.connect(f"{server}/postgres")
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        try:
            yield
        finally:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await admin.close()


async def test_a_database_that_is_away_is_503_and_leaves_no_file(
    start_web: StartWeb, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.reconciler.timing.RECONCILE_SECONDS", 0.1)
    web = await start_web(database_url=postgres_url)
    async with database_away(postgres_url):
        answer = await upload(web)
    assert_problem(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    await until(lambda: not any(path.is_file() for path in web.config.uploads_dir.rglob("*")))
    assert await stored(web) == NOTHING
    assert (await upload(web)).status_code == 201


async def test_a_full_queue_is_503_and_leaves_nothing(start_web: StartWeb) -> None:
    web = await start_web(queue_limit=1)
    assert (await upload(web)).status_code == 201
    before = await stored(web)
    answer = await upload(web)
    assert_problem(answer, 503, "queue_full")
    assert answer.headers["Retry-After"] == "10"
    assert await stored(web) == before


async def test_a_client_that_leaves_in_the_middle_of_its_upload_leaves_nothing(web: Web) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(
        b"POST /api/tryon/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + TRUNCATED
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert reader
    assert (await upload(web)).status_code == 201  # the server is none the worse
    files, rows, _ = await stored(web)
    assert (len(files), rows) == (1, 1)


# -- the rate limit --------------------------------------------------------------------


def rate(answer: httpx.Response) -> tuple[int, int]:
    """What is left, and until when."""
    match = re.fullmatch(r'"uploads";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    assert match
    return int(match[1]), int(match[2])


async def test_the_eleventh_upload_in_a_minute_is_refused(start_web: StartWeb) -> None:
    web = await start_web(upload_rate=TEN_A_MINUTE)
    for left in range(9, -1, -1):
        answer = await upload(web)
        assert answer.status_code == 201
        assert rate(answer)[0] == left
        assert answer.headers["RateLimit-Policy"] == '"uploads";q=10;w=60'
    before = await stored(web)
    answer = await upload(web)
    assert_problem(answer, 429, "rate_limited")
    assert answer.json()["retryable"] is True
    assert rate(answer)[0] == 0
    assert 50 <= int(answer.headers["Retry-After"]) <= 60
    assert await stored(web) == before


async def test_a_refused_photo_counts_and_a_refused_request_does_not(start_web: StartWeb) -> None:
    web = await start_web(upload_rate=UploadRate(2, 1))
    assert_problem(await web.client.post(SESSIONS, json={}), 415, "not_multipart")
    assert (await upload(web)).status_code == 201
    refused = await upload(web)
    assert_problem(refused, 429, "rate_limited")
    for _ in range(5):
        assert (await upload(web)).status_code == 429
    # Had those consumed anything, the window would never open while they go on.
    async with asyncio.timeout(5):
        while (await upload(web)).status_code != 201:
            await asyncio.sleep(0.02)


async def test_each_address_has_its_own_count_in_all_processes(start_web: StartWeb) -> None:
    settings: dict[str, Any] = {"upload_rate": UploadRate(2, 60), "trusted_proxies": (ip_network("127.0.0.0/8"),)}
    one, other = await start_web(**settings), await start_web(**settings)
    statuses = [
        (await upload(web, **{"X-Forwarded-For": address})).status_code
        for address in ("203.0.113.1", "203.0.113.2", "2001:db8::1")
        for web in (one, other, one)
    ]
    assert statuses == [201, 201, 429] * 3


async def test_the_limit_is_exact_when_all_come_at_once(start_web: StartWeb) -> None:
    one, other = await start_web(upload_rate=TEN_A_MINUTE), await start_web(upload_rate=TEN_A_MINUTE)
    answers = await asyncio.gather(*(upload(web) for web in (one, other) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [429] * 14


async def test_reading_is_not_limited(start_web: StartWeb) -> None:
    web = await start_web(upload_rate=TEN_A_MINUTE)
    session, token = await web.submit()
    for _ in range(15):
        answer = await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
        assert answer.status_code == 200
        assert "RateLimit" not in answer.headers


# -- without Redis ---------------------------------------------------------------------


async def test_an_upload_is_accepted_without_redis_and_queued_when_it_is_back(
    start_web: StartWeb, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            row = await web.database.reading.get(session_id)
            assert row is not None and row.status is Status.CREATED
            if await web.services.queue.depth() and await web.services.queue.contains(session_id, 0, row.enqueues):
                break
            await asyncio.sleep(0.02)  # by the process that could not queue it, or by the reconciler: whoever is first


async def test_uploads_are_counted_locally_without_redis(start_web: StartWeb, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    web = await start_web(redis_url=valkey.url, upload_rate=TEN_A_MINUTE)
    valkey.kill()
    statuses = [(await upload(web)).status_code for _ in range(11)]
    assert statuses == [201] * 10 + [429]
    metrics = (await web.client.get("/metrics")).text
    match = re.search(r"^tryon_limiter_local_total (\S+)", metrics, re.MULTILINE)
    assert match and float(match[1]) >= 11


# -- credentials -----------------------------------------------------------------------


@pytest.mark.parametrize("view", ["", "/history", "/events"])
async def test_a_wrong_a_missing_and_an_unknown_credential_cannot_be_told_apart(web: Web, view: str) -> None:
    session, token = await web.submit()
    _, another = await web.submit()

    async def seen(session_id: str, **headers: str) -> tuple[int, str, list[tuple[str, str]]]:
        headers["X-Request-ID"] = "the-same"
        answer = await web.client.get(f"{SESSIONS}/{session_id}{view}", headers=headers)
        return answer.status_code, answer.text, [(n, v) for n, v in answer.headers.items() if n != "date"]

    answers = [
        await seen(session.id),
        await seen(session.id, Authorization="Bearer " + "w" * 43),
        await seen(session.id, **{"X-Client-Token": another}),
        await seen(session.id, Authorization="Basic dXNlcjpwYXNz"),
        await seen(new_session_id(), **{"X-Client-Token": token}),
        await seen(new_session_id()),
        await seen("garbage", **{"X-Client-Token": token}),
        await seen(session.id.upper() + "0", **{"X-Client-Token": token}),
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 404


async def test_a_token_is_known_by_its_hash_alone(web: Web) -> None:
    session, token = await web.submit()
    assert session.owner == token_hash(token)
    for path in web.config.data_dir.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes()


async def test_answers_to_a_ticket_hold_no_ticket_and_no_link_that_outlives_it(start_web: StartWeb) -> None:
    web = await start_web(link_seconds=3600)
    session, _ = await web.submit()
    await web.complete(await web.begin(session))
    expires = int(web.database.clock.now()) + 60
    ticket = web.services.signer.ticket(session.id, expires=expires)
    for view in ("?since=0&", "/history?"):
        answer = await web.client.get(f"{SESSIONS}/{session.id}{view}ticket={ticket}")
        assert answer.status_code == 200
        assert "ticket" not in answer.text
        links = re.findall(r"/api/tryon/files/[^\"]+", answer.text)
        assert len(links) >= 2
        for link in links:
            assert int(parse_qs(urlsplit(link).query)["expires"][0]) <= expires


@pytest.mark.parametrize("how", ["expired", "forged", "garbage"])
async def test_a_bad_ticket_is_401(web: Web, how: str) -> None:
    session, _ = await web.submit()
    expires = int(web.database.clock.now()) + (-1 if how == "expired" else 60)
    ticket = web.services.signer.ticket(session.id, expires=expires)
    ticket = {"expired": ticket, "forged": ticket[:-3] + "AAA", "garbage": "%00%ff"}[how]
    assert_problem(await web.client.get(f"{SESSIONS}/{session.id}?ticket={ticket}"), 401, "invalid_ticket")


# -- signed links ----------------------------------------------------------------------


async def linked(web: Web) -> tuple[Any, str]:
    """A completed session's row and the link to its output."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    answer = await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
    return await web.database.reading.get(session.id), answer.json()["links"]["output"]


async def test_a_signed_link_opens_without_a_credential(web: Web) -> None:
    _, link = await linked(web)
    answer = await web.client.get(link)
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8\xff\xe0 result")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_part_of_a_file_can_be_asked_for(web: Web) -> None:
    _, link = await linked(web)
    answer = await web.client.get(link, headers={"Range": "bytes=5-10"})
    assert (answer.status_code, answer.content) == (206, b"result")
    assert answer.headers["Content-Range"] == "bytes 5-10/11"
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert (await web.client.get(link, headers={"Range": "bytes=99-"})).status_code == 416


async def test_a_link_that_is_not_exactly_ours_is_404(web: Web) -> None:
    row, link = await linked(web)
    other, _ = await linked(web)
    path, query = link.split("?")
    now = int(web.database.clock.now())
    stranger = Signer(["another-key-" * 4])
    bad = {
        "no signature": path,
        "other signature": link[:-3] + "AAA",
        "other file": f"/api/tryon/files/{other.output_key}?{query}",
        "later expiry": re.sub(r"expires=\d+", f"expires={now + 9999}", link),
        "expired": web.services.signer.link(row.output_key, expires=now - 1),
        "other key": stranger.link(row.output_key, expires=now + 60),
        "key id of ours": re.sub(
            r"key=\w+", f"key={parse_qs(query)['key'][0]}", stranger.link(row.output_key, expires=now + 60)
        ),
        "ticket as link": f"{path}?ticket={web.services.signer.ticket(row.id, expires=now + 60)}",
        "not a number": re.sub(r"expires=\d+", "expires=abc", link),
        "traversal": web.services.signer.link("../secret.key", expires=now + 60),
        "traversal, encoded": web.services.signer.link("..%2f..%2fsecret.key", expires=now + 60),
        "no row": web.services.signer.link(f"outputs/{new_session_id()}-1.jpg", expires=now + 60),
        "unnamed by its row": web.services.signer.link(f"outputs/{row.id}-9.jpg", expires=now + 60),
    }
    for why, url in bad.items():
        answer = await web.client.get(url)
        assert answer.status_code == 404, why
        assert answer.json()["code"] == "not_found", why


async def test_a_link_dies_with_its_session(web: Web) -> None:
    row, link = await linked(web)
    await web.services.sessions.erasure.erase(row, GoneReason.DELETED)
    assert_problem(await web.client.get(link), 404, "not_found")


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-10"}])
async def test_file_is_404_when_erased_before_it_is_opened(
    web: Web, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """An erasure between the look at the session and the file leaves a clear answer."""
    row, link = await linked(web)
    assert row.output_key is not None
    files, real = web.services.files, web.services.files.open

    async def late(key: str) -> Any:
        await files.delete([key])
        return await real(key)

    monkeypatch.setattr(type(files), "open", staticmethod(late))
    assert_problem(await web.client.get(link, headers=headers), 404, "not_found")


@pytest.mark.parametrize(("headers", "status"), [({}, 200), ({"Range": "bytes=5-10"}, 206)])
async def test_file_is_whole_when_erased_after_it_is_opened(
    web: Web, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], status: int
) -> None:
    """A download that has begun is not cut off, whatever happens to the session."""
    row, link = await linked(web)
    assert row.output_key is not None
    whole = await web.services.files.get(row.output_key)
    files, real = web.services.files, web.services.files.open

    async def erased_soon(key: str) -> Any:
        opened = await real(key)
        await files.delete([key])
        return opened

    monkeypatch.setattr(type(files), "open", staticmethod(erased_soon))
    answer = await web.client.get(link, headers=headers)
    assert answer.status_code == status
    assert answer.content == (whole if status == 200 else whole[5:11])


async def test_links_of_an_older_key_still_open_after_a_rotation(config: MakeConfig) -> None:
    old, new = "old-" * 10, "new-" * 10
    async with running_web(config(secret_keys=(old,))) as web:
        _, link = await linked(web)
    async with running_web(config(secret_keys=(new, old))) as web:
        assert (await web.client.get(link)).status_code == 200
    async with running_web(config(secret_keys=(new,))) as web:
        assert (await web.client.get(link)).status_code == 404


# -- what every answer has -------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/tryon", f"{SESSIONS}/x/y/z", "/static/nothing.js"])
async def test_an_unknown_route_is_a_problem_too(web: Web, path: str) -> None:
    assert_problem(await web.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    ["/static/../secret.key", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/%00", "/static/" + "x" * 3000, "/static/"],
)
async def test_static_paths_lead_nowhere_else(web: Web, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)  # httpx would tidy the path up
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", SESSIONS, {"GET", "HEAD", "POST"}),
        ("POST", f"{SESSIONS}/x", {"GET", "HEAD", "DELETE"}),
        ("DELETE", "/metrics", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(web: Web, method: str, path: str, allow: set[str]) -> None:
    answer = await web.client.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allow


async def test_every_code_has_words_for_a_person() -> None:
    for code, error in CODES.items():
        known = error.codes[code]
        assert known.title and known.detail.endswith("."), code
        assert error(code).status == error.status


@pytest.mark.parametrize("given", ["abc-123", "X" * 64])
async def test_a_callers_request_id_is_kept(web: Web, given: str) -> None:
    for path in ("/api/health/live", "/nothing"):
        assert (await web.client.get(path, headers={"X-Request-ID": given})).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "has space", "x" * 65, "ümlaut", "a\tb", "semi;colon"])
async def test_any_other_request_id_is_replaced(web: Web, given: str) -> None:
    answer = await web.client.get("/api/health/live", headers=[(b"X-Request-ID", given.encode())])
    assert answer.headers["X-Request-ID"] != given
    assert re.fullmatch(r"[A-Za-z0-9-]{36}", answer.headers["X-Request-ID"])


# -- before it is a request ------------------------------------------------------------


async def said(web: Web, *parts: bytes, seconds: float = 5.0) -> bytes:
    """Everything a bare connection hears that sends this, to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    try:
        async with asyncio.timeout(seconds):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def assert_raw_problem(heard: bytes, status: int) -> None:
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), heard[:200]
    problem = json.loads(body)
    assert (problem["status"], problem["code"], problem["title"]) == (status, "bad_request", "Bad request")
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    headers = httpx.Headers([(name, value) for name, _, value in lines])
    assert headers["Content-Type"] == "application/problem+json"
    assert int(headers["Content-Length"]) == len(body)
    assert problem["request_id"] == headers["X-Request-ID"]


REQUEST: Final = b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n"
AN_UPGRADE: Final = (
    b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["finished", "unfinished"])
@pytest.mark.parametrize("first", [b"", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"])
async def test_a_head_of_megabytes_is_431(web: Web, first: bytes, end: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the server may have closed before all was sent
        heard = await said(web, first, REQUEST, b"X-Long: ", *[b"x" * 65_536] * 20, end)
        assert_raw_problem(heard[heard.rindex(b"HTTP/1.1") :], 431)
    await until(lambda: not _http_connections())


def _http_connections() -> list[HttpProtocol]:
    return [one for one in gc.get_objects() if type(one) is HttpProtocol and one.parser is not None]


async def test_a_head_in_one_piece_is_measured_too(web: Web) -> None:
    most = REQUEST + b"Connection: close\r\nX-Long: " + b"x" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\n"
    assert (await said(web, most)).startswith(b"HTTP/1.1 200 ")
    assert_raw_problem(await said(web, REQUEST + b"X: y\r\n" * 12_000 + b"\r\n"), 431)


async def test_a_large_body_is_no_head(web: Web) -> None:
    """Also when both come in one piece, and the next head right behind."""
    body = b"x" * 200_000
    first = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + body + REQUEST
    heard = await said(web, first, b"Connection: close\r\n\r\n")
    assert heard.startswith(b"HTTP/1.1 404 ") and b"HTTP/1.1 200 " in heard


@pytest.mark.parametrize("start", [b"G", REQUEST, b"\r\n", b"GET /" + AN_UPGRADE])
async def test_a_head_that_does_not_end_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr("server.web.serving.http.HEAD_SECONDS", 0.2)
    heard = await said(web, start)
    assert_raw_problem(heard, 408 if b"/" + AN_UPGRADE not in start else 400)


async def test_a_trickle_does_not_put_the_end_off(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.web.serving.http.HEAD_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(REQUEST)

    async def trickle() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(5):
        assert_raw_problem(await reader.read(), 408)
    trickling.cancel()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_slow_answer_is_not_a_slow_head(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.web.serving.http.HEAD_SECONDS", 0.1)
    session, token = await web.submit()
    answer = await web.client.get(f"{SESSIONS}/{session.id}?since=1&wait=1", headers={"X-Client-Token": token})
    assert answer.status_code == 304
    assert (await web.client.get("/api/health/live")).status_code == 200  # over the same connection


async def test_a_connection_that_says_nothing_is_closed_like_an_idle_one(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "timeout_keep_alive", property(lambda self: 0.1, lambda self, value: None), False)
    assert await said(web) == b""
    monkeypatch.undo()


async def test_what_is_not_http_is_a_problem_too(web: Web) -> None:
    assert_raw_problem(await said(web, b"\x16\x03\x01 hello\r\n\r\n"), 400)


@pytest.mark.parametrize(
    "head",
    [
        b"GET %s HTTP/1.0\r\n" + AN_UPGRADE,
        b"POST %s HTTP/1.1\r\n" + AN_UPGRADE,
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE + b"Sec-WebSocket-Version: 13\r\n",
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"b25jZQ", b"b25*ZQ"),
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"Host: x\r\n", b""),
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"Version: 13", b"Version: 12"),
    ],
    ids=["HTTP/1.0", "POST", "two versions", "no base64", "no host", "short key", "no key", "version 12"],
)
async def test_an_upgrade_that_is_not_rfc_6455_is_a_4xx(web: Web, head: bytes) -> None:
    heard = await said(web, head % f"{SESSIONS}/{new_session_id()}/ws".encode() + b"\r\n")
    assert heard.startswith(b"HTTP/1.1 4"), heard[:100]
    assert heard.count(b"HTTP/1.1 4") == 1


async def test_another_version_is_told_which_one_there_is(web: Web) -> None:
    head = b"GET %s HTTP/1.1\r\n" + AN_UPGRADE.replace(b"Version: 13", b"Version: 12")
    heard = await said(web, head % f"{SESSIONS}/{new_session_id()}/ws".encode() + b"\r\n")
    assert_raw_problem(heard, 426)
    assert b"\r\nsec-websocket-version: 13\r\n" in heard.lower()
    assert b"\r\nupgrade: websocket\r\n" in heard.lower()


async def test_an_upgrade_does_not_overtake_the_request_before_it(web: Web) -> None:
    path = f"{SESSIONS}/{new_session_id()}/ws".encode()
    first = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"
    heard = await said(web, first + b"GET %s HTTP/1.1\r\n" % path + AN_UPGRADE + b"\r\n")
    assert b"HTTP/1.1 101" not in heard
    assert heard.startswith(b"HTTP/1.1 400 ")


# -- other origins ---------------------------------------------------------------------


async def preflight(web: Web, origin: str, method: str = "POST", headers: str = "authorization") -> httpx.Response:
    return await web.client.options(
        SESSIONS,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        },
    )


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "https://localhost", "http://127.0.0.1:3000", "http://[::1]:1"]
)
async def test_localhost_may_call_from_any_port(web: Web, origin: str) -> None:
    answer = await preflight(web, origin, headers=", ".join(ALLOWED_HEADERS).lower())
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert all(header.lower() in allowed for header in ALLOWED_HEADERS)
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    for response in (await upload(web, Origin=origin), await web.client.get("/nothing", headers={"Origin": origin})):
        assert response.headers["Access-Control-Allow-Origin"] == origin
        exposed = {name.strip() for name in response.headers["Access-Control-Expose-Headers"].split(",")}
        assert exposed == set(EXPOSED_HEADERS)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "http://localhost:1@evil.example", "null"]
)
async def test_other_origins_may_not_call(web: Web, origin: str) -> None:
    assert "Access-Control-Allow-Origin" not in (await preflight(web, origin)).headers
    answer = await web.client.get("/api/health", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_configured_origins_may_call_and_localhost_no_longer(start_web: StartWeb) -> None:
    web = await start_web(origins=("https://shop.example",))
    assert (await preflight(web, "https://shop.example")).headers[
        "Access-Control-Allow-Origin"
    ] == "https://shop.example"
    assert "Access-Control-Allow-Origin" not in (await preflight(web, "http://localhost:5173")).headers


async def test_a_failure_can_be_read_by_a_page_of_another_origin(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Any, request: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr("server.web.api.health.HealthEndpoints.live", fail)
    answer = await web.client.get("/api/health/live", headers={"Origin": "http://localhost:5173"})
    assert_problem(answer, 500, "internal_error")
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    answer = await web.client.get("/api/health/live", headers={"Origin": "https://evil.example"})
    assert_problem(answer, 500, "internal_error")
    assert "Access-Control-Allow-Origin" not in answer.headers


# -- how the service is ----------------------------------------------------------------


async def test_all_is_well_when_everything_answers(web: Web) -> None:
    await web.services.queue.note_worker("worker-1")
    await until(lambda: web.hub.delivers)
    answer = await web.client.get("/api/health")
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "ok", health
    assert set(health["checks"]) == {"database", "storage", "redis", "workers", "queue"}
    assert health["checks"]["workers"]["count"] == 1
    assert (await web.client.get("/api/health/ready")).json()["status"] == "ok"
    assert (await web.client.get("/api/health/live")).json() == {"status": "ok", "checks": {}}


async def test_without_a_worker_it_is_degraded(web: Web) -> None:
    await until(lambda: web.hub.delivers)
    answer = await web.client.get("/api/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"]["workers"]["status"] == "degraded"


async def test_without_redis_it_is_degraded_but_ready(start_web: StartWeb, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    web = await start_web(redis_url=valkey.url)
    await until(lambda: web.hub.delivers)
    valkey.kill()
    await until(lambda: not web.hub.delivers)
    health = await web.client.get("/api/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["checks"]["redis"]["status"] == "degraded"
    assert health.json()["checks"]["database"]["status"] == "ok"
    ready = await web.client.get("/api/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    valkey.start()
    await until(lambda: web.hub.delivers)
    assert (await web.client.get("/api/health/ready")).json()["status"] == "ok"


async def test_without_a_database_it_is_down_and_not_ready_but_alive(start_web: StartWeb, postgres_url: str) -> None:
    web = await start_web(database_url=postgres_url)
    async with database_away(postgres_url):
        for path in ("/api/health", "/api/health/ready"):
            answer = await web.client.get(path)
            assert (answer.status_code, answer.json()["status"]) == (503, "down"), path
            assert answer.json()["checks"]["database"]["status"] == "down"
        assert (await web.client.get("/api/health/live")).status_code == 200
    assert (await web.client.get("/api/health/ready")).status_code == 200


async def test_without_storage_it_is_down(web: Web) -> None:
    folder = web.config.uploads_dir / "outputs"
    folder.rmdir()
    answer = await web.client.get("/api/health")
    folder.mkdir()
    assert (answer.status_code, answer.json()["checks"]["storage"]["status"]) == (503, "down")


async def test_metrics_have_our_name_and_no_ids(web: Web) -> None:
    session, token = await web.submit()
    await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
    await web.client.get("/nothing/at/all")
    answer = await web.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    names = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith(("tryon_", "python_", "process_")) for name in names)
    assert (
        'tryon_http_requests_total{method="GET",route="/api/tryon/sessions/{session_id}",status="200"}' in answer.text
    )
    assert session.id not in answer.text and "/nothing" not in answer.text


# -- what is never told ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_token_ticket_or_signature_is_ever_logged(stack: StartStack, form: str) -> None:
    token, wrong = new_token(), new_token()
    running = await stack(TRYON_LOG_FORMAT=form, TRYON_LOG_LEVEL="debug")
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=15) as http:
        mine = {"Authorization": f"Bearer {token}"}
        posted = await http.post(
            SESSIONS, files={"image": ("me.png", picture())}, headers=mine | {"X-Request-ID": "the-upload"}
        )
        session = posted.json()
        made = (await http.post(SESSIONS, files={"image": ("me.png", picture())})).json()["client_token"]
        ws = running.url.replace("http", "ws", 1)
        async with connect(ws + session["links"]["ws"], proxy=None) as connection:
            client = Client(connection)
            assert await client.rest() == 1000
        output = next(frame["data"]["output"] for frame in client.frames if frame.get("event") == "completed")
        async with connect(
            f"{ws}{SESSIONS}/{session['session_id']}/ws",
            subprotocols=["tryon.v1", f"tryon.bearer.{wrong}"],  # type: ignore[list-item]
            proxy=None,
        ) as connection:
            assert await Client(connection).rest() == 4504
        for url, headers in [
            (output, {}),
            (output[:-4] + "AAAA", {}),
            (session["links"]["events"], {}),
            (f"{SESSIONS}/{session['session_id']}", mine),
            (f"{SESSIONS}/{session['session_id']}", {"X-Client-Token": wrong}),
            (f"{SESSIONS}/{session['session_id']}?ticket=a.1.{wrong}", {}),
            (f"/nothing?ticket={wrong}", {}),
        ]:
            await http.get(url, headers=headers)
        metrics = (await http.get("/metrics")).text
    await running.stop()
    secrets = [token, wrong, made]
    secrets += [session["links"][name].rpartition(".")[2] for name in ("ws", "events")]
    secrets += [parse_qs(urlsplit(link).query)["signature"][0] for link in (output, session["links"]["input"])]
    for secret in secrets:
        assert len(secret) > 20
        assert secret not in running.output, secret
        assert secret not in metrics
    assert session["session_id"] in running.output
    if form == "text":
        for line in (
            r"\[the-upload\] POST /api/tryon/sessions - Client: 127\.0\.0\.1",
            rf"Created session {session['session_id']} for user {token_hash(token)[:8]}\b",
            r"Session state transition: created → processing",
            rf"Processing session {session['session_id']} .*the-upload",
            rf"Session {session['session_id']} completed successfully .*the-upload",
            rf"Saved input file: inputs/{session['session_id']}-image\.\w+",
            r"\[the-upload\] Completed 201 in \d+\.\d{3}s",
        ):
            assert re.search(line, running.output), line
    else:
        entries = [json.loads(line) for line in running.output.splitlines() if line.startswith("{")]
        told = [entry for entry in entries if entry.get("request_id") == "the-upload"]
        assert any(entry["message"].startswith("Processing session") for entry in told), "the worker carries it too"


async def test_a_path_cannot_forge_a_log_line(stack: StartStack, redis_url: str, config: MakeConfig) -> None:
    settings = config()
    environment: dict[str, Any] = {
        "TRYON_REDIS_URL": redis_url,
        "TRYON_DATABASE_URL": settings.database,
        "TRYON_LOG_FORMAT": "text",
    }
    running = await stack("serve", ready=False, **environment)
    port = (await running.line(r"Listening on http://127\.0\.0\.1:(\d+)"))[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        await http.get("/x%0aFORGED%20line%0d%1b[31m")
        await http.get("/api/health/live")
    await running.stop()
    assert not any(line.startswith("FORGED") for line in (*running.lines, *running.errors))
    assert "\x1b[31m" not in running.output
