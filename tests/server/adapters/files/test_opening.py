"""The storage that the settings name, and the check of a bucket before a start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from server.adapters.files.local import LocalFiles
from server.adapters.files.opening import check_storage, open_files, open_object_store
from server.adapters.files.threads import StorageThreads
from server.config.settings import Config, ConfigError
from server.config.storage_url import parse_storage_url
from testkit.object_store import S3Server
from testkit.processes import free_port

PARTS = ("server.adapters.files.object_connection", "server.adapters.files.object_store", "obstore")


async def test_folder_needs_no_library_of_clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bucket the product runs where obstore is not installed."""
    for name in PARTS:
        monkeypatch.setitem(sys.modules, name, None)
    config = Config(data_dir=tmp_path)
    assert isinstance(await open_files(config, StorageThreads()), LocalFiles)
    await check_storage(config)


def test_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the extra to install."""
    for name in PARTS:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'tryon-push\[cloud\]'"):
        open_object_store(parse_storage_url("s3://photos"))


async def test_unreachable_bucket_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start ends with the reason, and shows no key."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    url = parse_storage_url(f"s3://photos?endpoint=http://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError) as raised:
        await check_storage(Config(storage_url=url))
    assert str(raised.value) == "TRYON_STORAGE_URL: s3://photos cannot be used: it cannot be reached"


@pytest.mark.xdist_group("s3")
async def test_refused_key_is_one_line(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's code is shown; the key is not."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.environ["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(ConfigError) as raised:
        await check_storage(Config(storage_url=parse_storage_url(s3.storage_url("x"))))
    said = str(raised.value)
    assert said == "TRYON_STORAGE_URL: s3://tryon/x cannot be used: it answered 403 SignatureDoesNotMatch"


@pytest.mark.parametrize("text", ["gs://photos", "az://photos?account=shop", "s3://photos?sse=aws:kms&kms_key=a/b"])
def test_client_of_each_cloud_is_made(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client is made from its URL; nothing is asked yet."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert text.partition("?")[0] in repr(open_object_store(parse_storage_url(text)))
