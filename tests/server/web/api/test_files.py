"""Signed links to files."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from server.config.settings import Config
from server.domain.tokens import Signer
from server.web.api.files import StoredFileResponse
from testkit.running import Web, running_web
from testkit.uploads import assert_problem
from testkit.values import new_session_id
from tryon.protocol.paths import SESSIONS
from tryon.protocol.states import GoneReason

MakeConfig = Callable[..., Config]


async def linked(web: Web) -> tuple[Any, str]:
    """Return the row of a completed session, and the link to its output."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    answer = await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
    return await web.database.reader.get(session.id), answer.json()["links"]["output"]


async def test_link_opens_without_credential(web: Web) -> None:
    """The file is served with its type, and is never cached by proxies."""
    _, link = await linked(web)
    answer = await web.client.get(link)
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8\xff\xe0 result")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


async def test_link_serves_ranges(web: Web) -> None:
    """A Range is answered with that part, one beyond the end with 416."""
    _, link = await linked(web)
    answer = await web.client.get(link, headers={"Range": "bytes=5-10"})
    assert (answer.status_code, answer.content) == (206, b"result")
    assert answer.headers["Content-Range"] == "bytes 5-10/11"
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert (await web.client.get(link, headers={"Range": "bytes=99-"})).status_code == 416


async def test_changed_link_is_404(web: Web) -> None:
    """Any changed part, another key or a path outside the storage is refused."""
    row, link = await linked(web)
    other, _ = await linked(web)
    path, query = link.split("?")
    now = int(web.database.clock.now())
    stranger = Signer(["another-key-" * 4])
    bad = {
        "no signature": path,
        "other signature": link[:-3] + "AAA",
        "other file": f"/api/tryon/files/{other.outputs[0].key}?{query}",
        "later expiry": re.sub(r"expires=\d+", f"expires={now + 9999}", link),
        "expired": web.services.signer.link(row.outputs[0].key, expires=now - 1),
        "other key": stranger.link(row.outputs[0].key, expires=now + 60),
        "key id of ours": re.sub(
            r"key=\w+", f"key={parse_qs(query)['key'][0]}", stranger.link(row.outputs[0].key, expires=now + 60)
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


async def test_link_is_404_after_erasure(web: Web) -> None:
    """An unexpired link opens nothing once its session is erased."""
    row, link = await linked(web)
    await web.services.sessions.erasure.remove(row, GoneReason.DELETED)
    assert_problem(await web.client.get(link), 404, "not_found")


class Stored:
    """An open file that exists nowhere in the file system."""

    size, modified_at = 11, 0.0

    def __init__(self) -> None:
        self._position = 0
        self.closed = False

    async def read(self, count: int) -> bytes:
        """Return the next bytes."""
        part = b"0123456789x"[self._position : self._position + count]
        self._position += len(part)
        return part

    async def seek(self, position: int) -> int:
        """Continue at this byte."""
        self._position = position
        return position

    async def aclose(self) -> None:
        """Note that the file was let go."""
        self.closed = True


@pytest.mark.parametrize(
    ("headers", "status", "content"),
    [
        ({}, 200, b"0123456789x"),
        ({"Range": "bytes=5-10"}, 206, b"56789x"),
        ({"Range": "bytes=0-1,5-6"}, 206, b"56"),
    ],
)
async def test_download_reads_the_opened_file(headers: dict[str, str], status: int, content: bytes) -> None:
    """Starlette reads from the file that the storage opened, and opens no path."""
    stored = Stored()
    transport = httpx.ASGITransport(StoredFileResponse(stored, "outputs/of-an-object-store.jpg", "image/jpeg"))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/", headers=headers)
    assert answer.status_code == status
    assert content in answer.content
    assert stored.closed


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-10"}])
async def test_file_is_404_when_erased_before_opening(
    web: Web, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """An erasure between reading the session and opening its file is a 404."""
    row, link = await linked(web)
    assert row.outputs
    files, real = web.services.files, web.services.files.open

    async def late(key: str) -> Any:
        await files.delete([key])
        return await real(key)

    monkeypatch.setattr(type(files), "open", staticmethod(late))
    assert_problem(await web.client.get(link, headers=headers), 404, "not_found")


@pytest.mark.parametrize(("headers", "status"), [({}, 200), ({"Range": "bytes=5-10"}, 206)])
async def test_file_is_whole_when_erased_after_opening(
    web: Web, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], status: int
) -> None:
    """A download that has begun is not cut off when the session is erased."""
    row, link = await linked(web)
    assert row.outputs
    whole = await web.services.files.get(row.outputs[0].key)
    files, real = web.services.files, web.services.files.open

    async def erased_soon(key: str) -> Any:
        opened = await real(key)
        await files.delete([key])
        return opened

    monkeypatch.setattr(type(files), "open", staticmethod(erased_soon))
    answer = await web.client.get(link, headers=headers)
    assert answer.status_code == status
    assert answer.content == (whole if status == 200 else whole[5:11])


async def test_link_opens_after_key_rotation(config: MakeConfig) -> None:
    """A link opens as long as the key that signed it is configured."""
    old, new = "old-" * 10, "new-" * 10
    async with running_web(config(secret_keys=(old,))) as web:
        _, link = await linked(web)
    async with running_web(config(secret_keys=(new, old))) as web:
        assert (await web.client.get(link)).status_code == 200
    async with running_web(config(secret_keys=(new,))) as web:
        assert (await web.client.get(link)).status_code == 404
