"""Resources in memory: compressed, in parts, or not again."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.web.common.resources import IMMUTABLE, REVALIDATED, Resource, takes_gzip

TEXT = b"frames and frames and frames. " * 9000
PICTURE = b"\x89PNG" + bytes(range(256)) * 3


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of an application with a text and a picture."""
    resources = {"/text": Resource(TEXT, "text/plain", {"X-Own": "1"}), "/picture": Resource(PICTURE, "image/png")}

    async def endpoint(request: Request) -> Response:
        return await resources[request.url.path].answer(request, cache_control=REVALIDATED)

    app = Starlette(routes=[Route(path, endpoint) for path in resources])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ([], False),
        (["gzip"], True),
        (["br, GZIP;q=0.5"], True),
        (["gzip;q=0"], False),
        (["gzip; q=0.000, *"], False),
        (["*"], True),
        (["*;q=0"], False),
        (["identity"], False),
        (["deflate", "x-gzip"], True),
        (["gzip;q=much"], False),
        (["gzip;quality=1"], False),
    ],
)
def test_gzip_is_sent_when_it_is_accepted(accepted: list[str], takes: bool) -> None:
    """Names without case, weights of 0, and the star."""
    assert takes_gzip(accepted) is takes


async def test_text_is_compressed_and_picture_is_not(client: httpx.AsyncClient) -> None:
    """Both representations have an ETag of their own, and the same content."""
    packed = await client.get("/text", headers={"Accept-Encoding": "gzip"})
    plain = await client.get("/text", headers={"Accept-Encoding": "identity"})
    assert packed.content == plain.content == TEXT
    assert packed.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert int(packed.headers["Content-Length"]) == len(gzip.compress(TEXT, mtime=0)) < len(TEXT)
    assert packed.headers["ETag"] != plain.headers["ETag"]
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["X-Own"] == "1" and "Last-Modified" not in plain.headers
    picture = await client.get("/picture", headers={"Accept-Encoding": "gzip"})
    assert picture.content == PICTURE
    assert {"Content-Encoding", "Vary"}.isdisjoint(picture.headers)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_known_resource_is_not_sent_again(client: httpx.AsyncClient, coding: str) -> None:
    """304 has no body, and what a cache needs; another ETag is answered in full."""
    headers = {"Accept-Encoding": coding}
    first = await client.get("/text", headers=headers)
    for known in (first.headers["ETag"], f'"x", W/{first.headers["ETag"]}', "*"):
        again = await client.get("/text", headers=headers | {"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        assert (again.headers["Cache-Control"], again.headers["Vary"]) == (REVALIDATED, "Accept-Encoding")
        assert "Content-Encoding" not in again.headers
    assert (await client.get("/text", headers=headers | {"If-None-Match": '"x"'})).status_code == 200


async def test_head_has_the_headers_of_a_get(client: httpx.AsyncClient) -> None:
    """Length, type and ETag, without the content."""
    for path in ("/text", "/picture"):
        got, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers == got.headers


async def test_range_is_of_the_uncompressed_content(client: httpx.AsyncClient) -> None:
    """Also where the client takes gzip; If-Range compares with that representation."""
    part = await client.get("/text", headers={"Accept-Encoding": "gzip", "Range": "bytes=70000-140000"})
    assert (part.status_code, part.content) == (206, TEXT[70000:140001])
    assert part.headers["Content-Range"] == f"bytes 70000-140000/{len(TEXT)}"
    assert "Content-Encoding" not in part.headers
    etag = part.headers["ETag"]
    assert (await client.get("/text", headers={"Range": "bytes=0-1", "If-Range": etag})).status_code == 206
    assert (await client.get("/text", headers={"Range": "bytes=0-1", "If-Range": '"x"'})).status_code == 200
    assert (await client.get("/text", headers={"Range": f"bytes={len(TEXT)}-"})).status_code == 416


def test_immutable_lasts_a_year() -> None:
    """Caches trust nothing for longer (RFC 9111)."""
    assert IMMUTABLE == "public, max-age=31536000, immutable"
