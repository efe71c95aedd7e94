"""Links to results that lead to the bucket, and the page's policy that lets them."""

from __future__ import annotations

import secrets

import pytest

from server.config.storage_url import parse_storage_url
from testkit.object_store import S3Server
from testkit.running import StartWeb
from testkit.uploads import assert_problem
from tryon.protocol.paths import SESSIONS

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture(autouse=True)
def keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the keys of the bucket."""
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("server.adapters.files.object_calls.ANSWER_SECONDS", 20.0)


async def test_link_to_a_result_leads_to_the_bucket(start_web: StartWeb, s3: S3Server) -> None:
    """The link is checked, then redirects; photos are served here; both die at once."""
    url = parse_storage_url(s3.storage_url(f"test-{secrets.token_hex(6)}"))
    web = await start_web(storage_url=url, presigned=True, link_seconds=100)
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    owner = {"X-Client-Token": token}
    links = (await web.client.get(f"{SESSIONS}/{session.id}", headers=owner)).json()["links"]
    answer = await web.client.get(links["output"])
    assert answer.status_code == 302 and answer.content == b""
    assert answer.headers["Cache-Control"] == "private, no-store"
    location = answer.headers["Location"]
    assert location.startswith(f"{s3.endpoint}/tryon/")
    assert 0 < int(location.partition("X-Amz-Expires=")[2].partition("&")[0]) <= 100
    assert (await web.client.get(location)).content == b"\xff\xd8\xff\xe0 result"
    assert (await web.client.get(location, headers={"Range": "bytes=5-10"})).content == b"result"
    head = (await web.client.head(links["output"])).headers["Location"]
    assert (await web.client.head(head)).headers["Content-Type"] == "image/jpeg"
    assert_problem(await web.client.get(links["output"] + "0"), 404, "not_found")
    assert (await web.client.get(links["input"])).status_code == 200, "photos take no detour"
    assert (await web.client.delete(f"{SESSIONS}/{session.id}", headers=owner)).status_code == 200
    assert (await web.client.get(links["output"])).status_code == 404
    assert (await web.client.get(location)).status_code == 404


async def test_page_may_show_pictures_of_the_bucket(start_web: StartWeb, s3: S3Server) -> None:
    """Only with presigned links does the page's policy name the bucket's origin."""
    url = parse_storage_url(s3.storage_url("page"))
    with_links = await start_web(storage_url=url, presigned=True)
    without = await start_web(storage_url=url)
    policy = (await with_links.client.get("/")).headers["Content-Security-Policy"]
    for kind in ("img-src", "media-src", "connect-src"):
        assert f"{kind} 'self' {s3.endpoint}" in policy
    assert s3.endpoint not in (await without.client.get("/")).headers["Content-Security-Policy"]
