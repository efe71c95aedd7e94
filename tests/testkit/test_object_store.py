"""The S3 server of the tests: it judges signatures, and keeps its objects."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import httpx
import obstore
import pytest
from obstore.exceptions import PermissionDeniedError
from obstore.store import S3Store

from testkit.object_store import BUCKET, REGION, S3Server

pytestmark = pytest.mark.xdist_group("s3")


def test_server_keeps_objects_of_the_product(s3: S3Server) -> None:
    """An object is listed below its prefix until it is deleted."""
    store = s3.store("test-keeps")
    obstore.put(store, "inputs/a.jpg", b"photo", attributes={"Content-Type": "image/jpeg"})
    assert s3.keys("test-keeps") == ["inputs/a.jpg"]
    assert bytes(obstore.get(store, "inputs/a.jpg").bytes()) == b"photo"
    obstore.delete(store, "inputs/a.jpg")
    assert s3.keys("test-keeps") == []


def test_server_refuses_foreign_keys_and_altered_links(s3: S3Server) -> None:
    """A wrong key, an altered and an expired link get 403: no test passes by chance."""
    store = s3.store("test-refuses")
    obstore.put(store, "inputs/a.jpg", b"photo")
    link = obstore.sign(store, "GET", "inputs/a.jpg", timedelta(seconds=60))
    with httpx.Client(trust_env=False) as client:
        assert client.get(link).content == b"photo"
        assert client.get(link.replace("a.jpg", "b.jpg")).status_code == 403
        assert client.get(link.replace("X-Amz-Expires=60", "X-Amz-Expires=6000")).status_code == 403
    stranger = S3Store(
        BUCKET,
        endpoint=s3.endpoint,
        region=REGION,
        access_key_id="PRODUCTKEYPRODUCTKEY",
        secret_access_key="another",
        client_options={"allow_http": True},
    )
    with pytest.raises(PermissionDeniedError):
        obstore.put(stranger, "test-refuses/inputs/c.jpg", b"photo")
    obstore.delete(store, "inputs/a.jpg")


@pytest.mark.slow
def test_server_keeps_objects_when_it_is_killed() -> None:
    """It comes back on the same port with the objects that it had."""
    with contextlib.closing(S3Server()) as server:
        server.start()
        obstore.put(server.store(), "inputs/a.jpg", b"photo" * 10_000)
        server.kill()
        server.start()
        assert server.keys() == ["inputs/a.jpg"]
