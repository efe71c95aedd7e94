"""Uploads at once, and the bytes that they hold: by address, and for all."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest

from server.config.parsing import UploadRate
from server.config.settings import Config
from server.web.api.upload_slots import UploadSlots
from testkit.running import StartWeb
from testkit.uploads import NOTHING, assert_problem, stored, upload
from tests.server.web.api.test_submit_on_sockets import BODY, answer_of, head
from tryon.protocol.errors import RateLimited


def limit_of(caught: pytest.ExceptionInfo[RateLimited]) -> tuple[str | None, str]:
    """Return the limit that a refusal names, and its words."""
    return caught.value.limit, caught.value.detail


def test_slots_limit_uploads_by_address(tmp_path: Path) -> None:
    """One address has its share; another is not concerned, and a slot comes back."""
    slots = UploadSlots(Config(data_dir=tmp_path, uploads_per_address=2))
    with slots.taken("a"), slots.taken("b"):
        with slots.taken("a"), pytest.raises(RateLimited) as caught, slots.taken("a"):
            pass
        assert limit_of(caught) == ("uploads_per_address", "Too many uploads at once from this address.")
        with slots.taken("a"):
            pass
    assert repr(slots) == "<UploadSlots 0 uploads, 0 bytes>"
    assert not slots._uploads and not slots._bytes


def test_slots_limit_bytes_by_address_and_process(tmp_path: Path) -> None:
    """What is refused counts nothing; an upload that ends gives its bytes back."""
    config = Config(data_dir=tmp_path, spooled_bytes_per_address=100, spooled_bytes_per_process=150)
    slots = UploadSlots(config)
    with slots.taken("a") as one, slots.taken("a") as two, slots.taken("b") as other:
        one.hold(60)
        one.hold(61)
        two.hold(39)
        with pytest.raises(RateLimited) as caught:
            two.hold(40)
        assert limit_of(caught)[0] == "spooled_bytes_per_address"
        other.hold(50)
        with pytest.raises(RateLimited) as caught:
            other.hold(51)
        assert limit_of(caught)[0] == "spooled_bytes_per_process"
        assert repr(slots) == "<UploadSlots 3 uploads, 150 bytes>"
    assert repr(slots) == "<UploadSlots 0 uploads, 0 bytes>"


@pytest.mark.usefixtures("patient_limits")
async def test_upload_beyond_the_share_of_its_address_is_refused(start_web: StartWeb) -> None:
    """The third at once gets 429 before its body, costs no rate, and others go on."""
    web = await start_web(
        uploads_per_address=2, upload_rate=UploadRate(4, 60), trusted_proxies=(ip_network("127.0.0.0/8"),)
    )
    slow = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        writer.write(head(len(BODY), "Expect: 100-continue", "X-Forwarded-For: 203.0.113.1"))
        assert (await answer_of(reader))[0] == 100
        writer.write(BODY[:100])
        slow.append((reader, writer))
    for _ in range(5):
        refused = await upload(web, **{"X-Forwarded-For": "203.0.113.1"})
        assert_problem(refused, 429, "rate_limited")
        assert refused.json()["limit"] == "uploads_per_address"
        assert int(refused.headers["Retry-After"]) >= 1
    assert (await upload(web, **{"X-Forwarded-For": "203.0.113.2"})).status_code == 201
    for reader, writer in slow:
        writer.write(BODY[100:])
        assert (await answer_of(reader))[0] == 201
        writer.close()
    assert (await upload(web, **{"X-Forwarded-For": "203.0.113.1"})).status_code == 201


@pytest.mark.parametrize("limit", ["spooled_bytes_per_address", "spooled_bytes_per_process"])
async def test_upload_beyond_the_bytes_is_refused(start_web: StartWeb, limit: str) -> None:
    """The bytes of a slow upload leave no room for another; with its end they do."""
    web = await start_web(**{limit: len(BODY) + 50})
    _reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(head(len(BODY)) + BODY[:-10])
    async with asyncio.timeout(20):
        while (refused := await upload(web)).status_code == 201:
            pass  # the slow upload is not read yet
    assert_problem(refused, 429, "rate_limited")
    assert refused.json()["limit"] == limit
    writer.close()
    async with asyncio.timeout(20):
        while (await upload(web)).status_code != 201:
            await asyncio.sleep(0.02)  # the disconnect is not noticed yet


async def test_refused_upload_gives_its_place_back(start_web: StartWeb) -> None:
    """Refusals, disconnects and answers all end the count."""
    web = await start_web(uploads_per_address=1)
    for _ in range(3):
        assert_problem(await web.client.post("/api/tryon/sessions", json={}), 415, "not_multipart")
    assert await stored(web) == NOTHING
    assert (await upload(web)).status_code == 201
