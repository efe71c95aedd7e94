"""Files in a bucket of a real S3 server: the contract, and what a bucket adds."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import httpx
import obstore
import pytest

from server.adapters.files import object_calls, object_parts
from server.adapters.files.object_connection import connect
from server.adapters.files.object_store import ObjectStoreFiles
from server.adapters.files.opening import check_storage
from server.config.settings import Config, ConfigError
from server.config.storage_url import parse_storage_url
from testkit.object_store import S3Server
from testkit.proxy import Proxy, running_proxy
from testkit.running import until
from tests.server.adapters.files.contract import KEY, OTHER, SESSION, FilesContract, keys_of
from tryon.protocol.errors import StorageFull, Unavailable

pytestmark = pytest.mark.xdist_group("s3")


def opened(
    s3: S3Server,
    prefix: str,
    *,
    port: int | None = None,
    presigned: bool = False,
    options: Mapping[str, str] = MappingProxyType({}),
) -> ObjectStoreFiles:
    """Return the storage below a prefix; ``port``: of a proxy before the server."""
    url = parse_storage_url(s3.storage_url(prefix, port=port, **options))
    return ObjectStoreFiles(connect(url, os.environ), str(url), presigned=presigned)


@pytest.fixture
def prefix() -> str:
    """Return a prefix of this test alone."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def files(s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStoreFiles:
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    # A machine that is busy with other tests is no silent storage.
    monkeypatch.setattr(object_calls, "ANSWER_SECONDS", 20.0)
    return opened(s3, prefix)


class TestObjectStoreFiles(FilesContract):
    """Every guarantee of the port."""


async def large(parts: int, then: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Yield parts of an upload; then wait for ever, if ``then`` is to be set."""
    for _ in range(parts):
        yield bytes(object_parts.PART_BYTES)
    if then is not None:
        then.set()
        await asyncio.Event().wait()


async def test_large_stream_is_stored_by_parts(files: ObjectStoreFiles, s3: S3Server) -> None:
    """A stream of several parts becomes one object, and no part is left over."""
    await files.put(KEY, large(3))
    found = await files.open(KEY)
    assert found.size == 3 * object_parts.PART_BYTES
    assert await found.seek(found.size - 10) == found.size - 10
    assert await found.read(100) == bytes(10)
    await found.aclose()
    assert s3.unfinished_uploads() == []


async def test_cancelled_parts_leave_no_unfinished_upload(files: ObjectStoreFiles, s3: S3Server) -> None:
    """Parts that the storage holds already go when the upload is cut off."""
    waiting = asyncio.Event()
    putting = asyncio.create_task(files.put(KEY, large(3, waiting)))
    await waiting.wait()
    await until(s3.unfinished_uploads)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await until(lambda: not s3.unfinished_uploads())
    assert await keys_of(files) == []


async def test_objects_carry_their_type_and_no_cache(files: ObjectStoreFiles, s3: S3Server, prefix: str) -> None:
    """A presigned link leads past our own answers, so the object has their headers."""
    await files.put(OTHER, b"photo")
    attributes = obstore.get(s3.store(prefix), OTHER).attributes
    assert attributes["Content-Type"] == "image/jpeg"
    assert attributes["Cache-Control"] == "private, no-store"


async def test_link_leads_to_the_object_until_it_ends(files: ObjectStoreFiles, s3: S3Server, prefix: str) -> None:
    """A presigned link serves ranges and one method, ends with the object."""
    assert await files.link(OTHER, method="GET", seconds=60) is None, "nothing asked for such links"
    presigned = opened(s3, prefix, presigned=True)
    await files.put(OTHER, b"photo")
    link = await presigned.link(OTHER, method="GET", seconds=60)
    head = await presigned.link(OTHER, method="HEAD", seconds=60)
    assert link is not None
    assert head is not None
    assert "X-Amz-Expires=60" in link
    assert s3.environ["AWS_SECRET_ACCESS_KEY"] not in link
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(link)).content == b"photo"
        assert (await client.get(link, headers={"Range": "bytes=1-2"})).content == b"ho"
        assert (await client.head(head)).headers["content-length"] == "5"
        assert (await client.delete(link)).status_code == 403
        await files.delete([OTHER])
        assert (await client.get(link)).status_code == 404


async def test_listing_leaves_out_foreign_objects(files: ObjectStoreFiles, s3: S3Server, prefix: str) -> None:
    """Objects of other programs below the prefix are counted, and never returned."""
    await files.put(KEY, b"photo")
    obstore.put(s3.store(prefix), "inputs/Thumbs.db/x", b"foreign")
    obstore.put(s3.store(prefix), "backup.tar", b"foreign")
    page = await files.list_page()
    assert [entry.key for entry in page.entries] == [KEY]
    assert page.foreign == 2


async def test_ages_come_from_the_storage(files: ObjectStoreFiles) -> None:
    """The clock of this machine plays no part in an object's age."""
    await files.put(KEY, b"photo")
    (entry,) = (await files.list_page()).entries
    assert entry.age_seconds < 100
    found = await files.open(KEY)
    assert abs(found.modified_at - datetime.now(UTC).timestamp()) < 100  # one machine here


async def test_many_objects_are_deleted_at_once(files: ObjectStoreFiles) -> None:
    """A batch deletes what exists and names it; the rest is no error."""
    keys = [f"inputs/{SESSION}-image-{number}.jpg" for number in range(30)]
    await asyncio.gather(*(files.put(key, b"photo") for key in keys))
    assert await files.delete([*keys, OTHER]) == keys
    assert await keys_of(files) == []


async def test_missing_bucket_is_unavailable(files: ObjectStoreFiles, s3: S3Server) -> None:
    """A bucket that is gone is no missing photo: a session would be lost by it."""
    url = parse_storage_url(s3.storage_url("x").replace("//tryon/", "//gone/"))
    gone = ObjectStoreFiles(connect(url, os.environ), str(url))
    for call in (gone.get(KEY), gone.put(KEY, b"photo"), gone.delete([KEY]), gone.list_page(), gone.check()):
        with pytest.raises(Unavailable):
            await call


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[Proxy]:
    """Run a proxy before the server, which breaks what passes."""
    async with running_proxy(s3.port) as proxy:
        yield proxy


@pytest.fixture
def behind(files: ObjectStoreFiles, s3: S3Server, prefix: str, proxy: Proxy) -> ObjectStoreFiles:
    """Return the same storage through the proxy. It signs for the proxy's address."""
    return opened(s3, prefix, port=proxy.port)


def answered(status: str, code: str) -> bytes:
    """Return the answer of an S3 server that refuses."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answered("507 Insufficient Storage", "XMinioStorageFull"), StorageFull),
        (answered("403 Forbidden", "QuotaExceeded"), StorageFull),
        (answered("403 Forbidden", "AccessDenied"), Unavailable),
        (answered("503 Slow Down", "SlowDown"), Unavailable),
        (answered("500 Internal Server Error", "InternalError"), Unavailable),
        (b"", Unavailable),
    ],
    ids=["full", "quota", "forbidden", "slow-down", "failing", "cut"],
)
async def test_refusals_become_the_products_errors(
    files: ObjectStoreFiles,
    behind: ObjectStoreFiles,
    proxy: Proxy,
    answer: bytes,
    error: type[Exception],
) -> None:
    """Full is 507, everything else 503; what was stored before is still there."""
    await behind.put(KEY, b"photo")
    proxy.forbid(lambda said: True, answer)
    with pytest.raises(error) as raised:
        await behind.put(OTHER, b"photo")
    assert "proxy" not in repr(raised.value.__cause__)
    with pytest.raises((Unavailable, StorageFull)):
        await behind.check()
    for call in (behind.delete([KEY]), behind.open(KEY), behind.list_page(), behind.outputs_of([SESSION])):
        with pytest.raises(Unavailable):  # also of a full storage: a caller that stores nothing cannot be told so
            await call
    proxy.forbid(lambda said: False)
    assert await behind.get(KEY) == b"photo"
    assert await keys_of(files) == [KEY]


async def test_silent_storage_is_unavailable_in_time(
    behind: ObjectStoreFiles, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call waits for ever for a storage that answers nothing."""
    await behind.put(KEY, b"photo" * 100_000)
    reading = await behind.open(KEY)
    assert await reading.read(10) == b"photophoto"
    proxy.black_hole()
    monkeypatch.setattr(object_calls, "ANSWER_SECONDS", 0.3)
    calls = [
        lambda: behind.get(KEY),
        lambda: behind.open(KEY),
        lambda: behind.put(OTHER, b"photo"),
        lambda: behind.delete([KEY]),
        lambda: behind.outputs_of([SESSION]),
        behind.check,
    ]
    for call in calls:
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable):
                await call()
    await reading.aclose()
    proxy.mend()
    proxy.cut()


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({}, {}),
        ({"sse": "AES256"}, {"": "AES256"}),
        ({"sse": "aws:kms"}, {"": "aws:kms"}),
        ({"sse": "aws:kms:dsse", "kms_key": "shop/a"}, {"": "aws:kms:dsse", "-aws-kms-key-id": "shop/a"}),
    ],
    ids=["none", "AES256", "kms", "dsse"],
)
async def test_encryption_is_asked_for_each_object(
    files: ObjectStoreFiles,
    s3: S3Server,
    prefix: str,
    proxy: Proxy,
    options: dict[str, str],
    headers: dict[str, str],
) -> None:
    """The header of each object, whole or by parts, names how it is encrypted."""
    behind = opened(s3, prefix, port=proxy.port, options=options)
    said: list[bytes] = []
    refusal = answered("400 Bad Request", "Recorded")

    def begins_an_object(data: bytes) -> bool:
        if not data.startswith((b"PUT ", b"POST ")):
            return False
        said.append(data.partition(b"\r\n\r\n")[0])
        return True

    proxy.forbid(begins_an_object, refusal)
    for content in (b"photo", large(2)):
        with pytest.raises(Unavailable):
            await behind.put(KEY, content)
    whole, parts = said
    assert b"uploads" not in whole and b"?uploads" in parts
    name = "x-amz-server-side-encryption"
    for head in said:
        lines = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
        found = {field.removeprefix(name): value for field, value in lines.items() if field.startswith(name)}
        assert found == {field: value.lower() for field, value in headers.items()}


async def test_encrypted_object_is_kept_so(files: ObjectStoreFiles, s3: S3Server, prefix: str) -> None:
    """The bucket says how it keeps the object, and gives it back whole."""
    encrypted = opened(s3, prefix, presigned=True, options={"sse": "AES256"})
    await encrypted.put(OTHER, b"photo")
    assert await files.get(OTHER) == b"photo"
    link = await encrypted.link(OTHER, method="HEAD", seconds=60)
    assert link is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.head(link)).headers["x-amz-server-side-encryption"] == "AES256"


async def test_encryption_that_the_bucket_lacks_ends_the_start(
    files: ObjectStoreFiles, s3: S3Server, prefix: str
) -> None:
    """A server without a key manager refuses it: one line, with its own code."""
    url = parse_storage_url(s3.storage_url(prefix, sse="aws:kms", kms_key="hunter2"))
    with pytest.raises(ConfigError) as raised:
        await check_storage(Config(storage_url=url))
    said = str(raised.value)
    assert said.startswith(f"TRYON_STORAGE_URL: s3://tryon/{prefix} cannot be used: it answered ")
    assert "hunter2" not in said and "\n" not in said
