"""Files in a container of a real Azure blob server: the contract, and what differs."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator

import httpx
import obstore
import pytest

from server.adapters.files import object_calls, object_parts
from server.adapters.files.object_connection import connect
from server.adapters.files.object_store import ObjectStoreFiles
from server.adapters.files.opening import check_storage
from server.config.settings import Config, ConfigError
from server.config.storage_url import parse_storage_url
from testkit.azurite import AzuriteServer
from tests.server.adapters.files.contract import KEY, OTHER, FilesContract, keys_of
from tryon.protocol.errors import Unavailable

pytestmark = pytest.mark.xdist_group("azurite")


@pytest.fixture
def url(azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a URL with a prefix of this test alone; its key is in the environment."""
    for name, value in azurite.environ.items():
        monkeypatch.setenv(name, value)
    # A machine that is busy with other tests is no silent storage.
    monkeypatch.setattr(object_calls, "ANSWER_SECONDS", 20.0)
    return azurite.storage_url(f"test-{secrets.token_hex(6)}")


def opened(text: str, *, presigned: bool = False) -> ObjectStoreFiles:
    url = parse_storage_url(text)
    return ObjectStoreFiles(connect(url, os.environ), str(url), presigned=presigned)


@pytest.fixture
def files(url: str) -> ObjectStoreFiles:
    return opened(url)


class TestAzureFiles(FilesContract):
    """Every guarantee of the port."""


async def test_large_stream_is_stored_by_blocks(files: ObjectStoreFiles) -> None:
    """A stream of several blocks becomes one blob."""

    async def large() -> AsyncIterator[bytes]:
        for number in range(3):
            yield bytes([number]) * object_parts.PART_BYTES

    await files.put(KEY, large())
    found = await files.open(KEY)
    assert found.size == 3 * object_parts.PART_BYTES
    assert await found.seek(found.size - 10) == found.size - 10
    assert await found.read(100) == b"\x02" * 10
    await found.aclose()


async def test_link_leads_to_the_blob_until_it_ends(url: str, files: ObjectStoreFiles) -> None:
    """A presigned link serves ranges and one method, and ends with the blob."""
    presigned = opened(url, presigned=True)
    await files.put(OTHER, b"photo")
    link = await presigned.link(OTHER, method="GET", seconds=60)
    assert link is not None
    assert os.environ["AZURE_STORAGE_ACCOUNT_KEY"] not in link
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(link)
        assert answer.content == b"photo"
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert (await client.get(link, headers={"Range": "bytes=1-2"})).content == b"ho"
        assert (await client.delete(link)).status_code == 403
        assert (await client.get(link.replace("sig=", "sig=x"))).status_code == 403
        await files.delete([OTHER])
        assert (await client.get(link)).status_code == 404


async def test_listing_leaves_out_foreign_blobs(url: str, files: ObjectStoreFiles) -> None:
    """Blobs of other programs below the prefix are counted, and never returned."""
    await files.put(KEY, b"photo")
    store = connect(parse_storage_url(url), os.environ)
    await asyncio.gather(*(obstore.put_async(store, key, b"x") for key in ("inputs/Thumbs.db/x", "backup.tar")))
    page = await files.list_page()
    assert [entry.key for entry in page.entries] == [KEY]
    assert page.foreign == 2


async def test_missing_container_is_unavailable(url: str) -> None:
    """A container that is gone is no missing photo: a session would be lost by it."""
    gone = opened(url.replace("//photos/", "//gone/"))
    for call in (gone.get(KEY), gone.put(KEY, b"photo"), gone.delete([KEY]), gone.list_page(), gone.check()):
        with pytest.raises(Unavailable):
            await call


async def test_refused_key_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start ends with the server's code, and shows no key."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg==")
    with pytest.raises(ConfigError) as raised:
        await check_storage(Config(storage_url=parse_storage_url(url)))
    said = str(raised.value)
    assert said.startswith("TRYON_STORAGE_URL: az://photos/test-")
    assert said.endswith("cannot be used: it answered 403 AuthorizationFailure")


async def test_deletion_leaves_other_blobs(files: ObjectStoreFiles) -> None:
    """One request for each blob: what exists is named, the rest is no error."""
    await files.put(KEY, b"photo")
    await files.put(OTHER, b"photo")
    assert await files.delete([OTHER, f"{OTHER[:-4]}-2.jpg"]) == [OTHER]
    assert await keys_of(files) == [KEY]
