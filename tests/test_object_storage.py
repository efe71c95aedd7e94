"""The whole product on a bucket: from an upload to nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import httpx
import pytest

from server.config.settings import Config
from server.config.storage_url import parse_storage_url
from testkit.fixtures import StartStack
from testkit.object_store import S3Server
from testkit.proxy import running_proxy
from testkit.running import running_web, until
from testkit.uploads import form
from tryon.protocol.paths import HEALTH, READY, SESSIONS

pytestmark = pytest.mark.xdist_group("s3")


@pytest.mark.parametrize("presigned", ["on", "off"])
async def test_session_lives_and_dies_in_a_bucket(stack: StartStack, s3: S3Server, presigned: str) -> None:
    """Upload, result by its link, then erasure: the bucket is as empty as before."""
    prefix = f"test-{secrets.token_hex(6)}"
    started = await stack(
        TRYON_STORAGE_URL=s3.storage_url(prefix),
        TRYON_PRESIGNED=presigned,
        AWS_ACCESS_KEY_ID=s3.environ["AWS_ACCESS_KEY_ID"],
        AWS_SECRET_ACCESS_KEY=s3.environ["AWS_SECRET_ACCESS_KEY"],
    )
    owner = {"X-Client-Token": "owner-of-a-session-in-a-bucket"}
    async with httpx.AsyncClient(base_url=started.url, trust_env=False, timeout=30) as client:
        session = (await client.post(SESSIONS, files=form(), headers=owner)).json()
        path = f"{SESSIONS}/{session['session_id']}"

        async with asyncio.timeout(60):
            while (await client.get(path, headers=owner)).json()["status"] != "completed":
                await asyncio.sleep(0.1)
        assert len(s3.keys(prefix)) >= 2, "a photo and a result"
        links = (await client.get(path, headers=owner)).json()["links"]
        answer = await client.get(links["output"])
        assert answer.status_code == (302 if presigned == "on" else 200)
        result = await client.get(links["output"], follow_redirects=True)
        assert result.headers["Content-Type"] == "image/jpeg"
        assert result.content.startswith(b"\xff\xd8")
        assert (await client.get(HEALTH)).json()["checks"]["storage"]["status"] == "ok"
        assert (await client.delete(path, headers=owner)).status_code == 200
        assert s3.keys(prefix) == []
        assert (await client.get(str(result.url))).status_code == 404
    assert not (started.data_dir / "uploads").exists(), "the data folder keeps no photo"
    assert s3.environ["AWS_SECRET_ACCESS_KEY"] not in started.output


def refusal(status: str, code: str) -> bytes:
    """Return the answer of an S3 server that refuses."""
    body = f"<Error><Code>{code}</Code></Error>"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (refusal("507 Insufficient Storage", "XMinioStorageFull"), 507, "storage_full"),
        (refusal("403 Forbidden", "AccessDenied"), 503, "unavailable"),
        (refusal("500 Internal Server Error", "InternalError"), 503, "unavailable"),
        (b"", 503, "unavailable"),
    ],
    ids=["full", "permission lost", "failing", "cut"],
)
async def test_bucket_that_refuses_loses_and_keeps_nothing(
    config: Callable[..., Config],
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    status: int,
    code: str,
) -> None:
    """Uploads are refused in words; an erased session's photo goes when it is back."""
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    prefix = f"test-{secrets.token_hex(6)}"
    owner = {"X-Client-Token": "owner-of-a-session-in-a-bucket"}
    async with running_proxy(s3.port) as proxy:
        url = parse_storage_url(s3.storage_url(prefix, port=proxy.port))
        async with running_web(config(storage_url=url)) as web:
            made = (await web.client.post(SESSIONS, files=form(), headers=owner)).json()
            path = f"{SESSIONS}/{made['session_id']}"
            proxy.forbid(lambda said: True, answer)
            refused = await web.client.post(SESSIONS, files=form(), headers=owner)
            assert (refused.status_code, refused.json()["code"]) == (status, code)
            assert status == 507 or "Retry-After" in refused.headers
            assert (await web.client.get(READY)).status_code == 503
            assert (await web.client.delete(path, headers=owner)).status_code == 503, "and done all the same"
            assert (await web.client.get(path, headers=owner)).status_code == 404
            assert (await web.client.get(made["links"]["input"])).status_code == 404
            assert s3.keys(prefix) == [f"inputs/{made['session_id']}-person-0.png"], "it cannot be deleted yet"
            proxy.forbid(lambda said: False)
            await until(lambda: not s3.keys(prefix), seconds=90)
            assert (await web.client.post(SESSIONS, files=form(), headers=owner)).status_code == 201
