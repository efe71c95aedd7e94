"""Range and If-Range by RFC 9110: what is ignored, what is refused, what is sent."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from server.web.common.ranges import MAX_RANGES, RangedFileResponse, wanted
from tryon.protocol.errors import BadRange

SIZE = 11


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("bytes=0-0", [(0, 0)]),
        ("bytes=5-", [(5, 10)]),
        ("bytes=5-99", [(5, 10)]),
        ("bytes=-3", [(8, 10)]),
        ("bytes=-99", [(0, 10)]),
        ("BYTES = 0-1 , 5-6", [(0, 1), (5, 6)]),
        ("bytes=0-1,,99-,", [(0, 1)]),  # one of them lies in the file
        ("bytes=0-" + "9" * 50_000, [(0, 10)]),
        ("bytes=-" + "9" * 50_000, [(0, 10)]),
        ("bytes=0000000005-0000000006", [(5, 6)]),
        *[
            (value, None)
            for value in (
                "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=5-2", "bytes=--5", "bytes=+5-",
                "bytes=1_0-", "bytes=0-1;5-6", "bytes=0-1,x", "bytes=1-2-3", "bytes=\u0663-", "items=0-1", "bytes 0-1",
                "bytes=" + "0-0," * 10_000,
                "bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)),
            )
        ],
    ],
)  # fmt: skip
def test_invalid_range_is_ignored(value: str, parts: list[tuple[int, int]] | None) -> None:
    """Only a valid ``bytes`` range asks for less than the whole file (section 14.2)."""
    assert wanted([value], SIZE) == parts


@pytest.mark.parametrize(
    "value", ["bytes=11-", "bytes=99-100", "bytes=-0", "bytes=11-,-0", "bytes=" + "9" * 50_000 + "-"]
)
def test_range_beyond_the_end_is_refused(value: str) -> None:
    """If no range overlaps the file, the request is refused (section 15.5.17)."""
    with pytest.raises(BadRange):
        wanted([value], SIZE)


def test_range_given_twice_is_ignored() -> None:
    """The field is no list of fields."""
    assert wanted(["bytes=0-1", "bytes=2-3"], SIZE) is None
    assert wanted([], SIZE) is None


@pytest.fixture
def file(tmp_path: Path) -> RangedFileResponse:
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456789x")
    return RangedFileResponse(path, stat_result=path.stat())


async def get(file: RangedFileResponse, method: str = "GET", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(file)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, "/", headers=headers)


async def test_unsatisfiable_range_names_the_size(file: RangedFileResponse) -> None:
    """416 is a problem with ``Content-Range: bytes */11``."""
    answer = await get(file, Range="bytes=11-")
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */11")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "range_not_satisfiable"


async def test_several_ranges_are_sent_as_parts(file: RangedFileResponse) -> None:
    """Ranges that overlap are sent once."""
    answer = await get(file, Range="bytes=0-1,5-6,99-")
    assert answer.status_code == 206
    assert answer.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert b"Content-Range: bytes 0-1/11" in answer.content
    assert b"Content-Range: bytes 5-6/11" in answer.content
    joined = await get(file, Range="bytes=4-6,0-4")
    assert (joined.status_code, joined.content) == (206, b"0123456")
    assert joined.headers["Content-Range"] == "bytes 0-6/11"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Range": "bytes=5-2"}),
        ("HEAD", {"Range": "bytes=0-1"}),  # a range is defined for GET only
        ("HEAD", {"Range": "bytes=99-"}),
        ("GET", {"Range": "bytes=0-1", "If-Range": '"another"'}),
        ("GET", {"Range": "bytes=99-", "If-Range": '"another"'}),
        ("GET", {"Range": "bytes=0-1", "If-Range": "Thu, 01 Jan 1970 00:00:00 GMT"}),
    ],
)
async def test_whole_file_is_sent_when_range_does_not_apply(
    file: RangedFileResponse, method: str, headers: dict[str, str]
) -> None:
    """200 with the whole length."""
    answer = await get(file, method, **headers)
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, "11")
    assert "Content-Range" not in answer.headers


async def test_if_range_of_current_file_sends_the_range(file: RangedFileResponse) -> None:
    """A strong tag or the date of the file; a weak tag never matches."""
    tag, date = file.headers["etag"], file.headers["last-modified"]
    for known in (tag, date):
        assert (await get(file, Range="bytes=0-1", **{"If-Range": known})).status_code == 206
    assert (await get(file, Range="bytes=0-1", **{"If-Range": f"W/{tag}"})).status_code == 200
