"""URLs of buckets: one grammar, without keys, and refusals that repeat nothing."""

from __future__ import annotations

import pytest

from server.config.settings import Config, ConfigError
from server.config.storage_url import credential_names, parse_storage_url


def test_url_is_taken_apart() -> None:
    """Bucket, prefix and options; the name that is shown has no options."""
    url = parse_storage_url("s3://photos/shop/a?region=eu-central-1&endpoint=http://127.0.0.1:9000&sse=AES256")
    assert (url.scheme, url.bucket, url.prefix) == ("s3", "photos", "shop/a")
    assert url.options == {"region": "eu-central-1", "endpoint": "http://127.0.0.1:9000", "sse": "AES256"}
    assert str(url) == "s3://photos/shop/a"
    assert str(parse_storage_url("gs://photos")) == "gs://photos"
    assert parse_storage_url("az://photos/a/?account=shop").prefix == "a"


@pytest.mark.parametrize(
    "text",
    [
        "", "photos", "http://photos/", "s3://", "s3:///a", "s3://A/", "s3://photos/../a", "s3://photos//a",
        "s3://photos/a#hunter2", "s3://key:hunter2@photos/a", "s3://photos?secret_access_key=hunter2",
        "s3://photos?region=a&region=b", "s3://photos?region", "s3://photos?endpoint=hunter2",
        "s3://photos?endpoint=http://user:hunter2@host", "s3://photos?sse=hunter2", "s3://photos?kms_key=hunter2",
        "gs://photos?region=hunter2", "az://photos?account=Hunter2!", "s3://[hunter2", "s3://photos?region=%00hunter2",
    ],
)  # fmt: skip
def test_malformed_url_is_one_line_without_it(text: str) -> None:
    """No refusal repeats a part of the URL: a key may stand anywhere in it."""
    with pytest.raises(ConfigError) as raised:
        Config.load({"TRYON_STORAGE_URL": text, "TRYON_PRESIGNED": "on"}, env_file=None)
    said = str(raised.value)
    assert said.startswith(("TRYON_STORAGE_URL: ", "TRYON_PRESIGNED=on needs"))
    assert "hunter2" not in said.lower() and "\n" not in said


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sse=aes256", "its sse is malformed"),
        ("sse=", "its sse is malformed"),
        ("sse=aws:kms,AES256", "its sse is malformed"),
        ("sse=aws:kms&kms_key=a%20b", "its kms_key is malformed"),
        ("kms_key=a", "kms_key needs sse=aws:kms"),
        ("sse=AES256&kms_key=a", "kms_key needs sse=aws:kms"),
    ],
)
def test_wrong_encryption_is_named_in_one_line(query: str, reason: str) -> None:
    """An object is never stored under another encryption than was asked for."""
    with pytest.raises(ConfigError) as raised:
        Config.load({"TRYON_STORAGE_URL": f"s3://photos?{query}"}, env_file=None)
    assert str(raised.value) == f"TRYON_STORAGE_URL: {reason} (found its value)"


def test_surroundings_come_from_the_clouds_own_variables() -> None:
    """The URL's options win over the variables that the cloud's tools read."""
    plain = parse_storage_url("s3://photos")
    assert plain.region({}) == "us-east-1"
    assert plain.region({"AWS_DEFAULT_REGION": "a", "AWS_REGION": "b"}) == "b"
    assert parse_storage_url("s3://photos?region=c").region({"AWS_REGION": "b"}) == "c"
    assert plain.endpoint({"AWS_ENDPOINT_URL": "https://minio.example"}) == "https://minio.example"


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("s3://photos?region=eu-west-1", "https://s3.eu-west-1.amazonaws.com"),
        ("s3://photos", "https://s3.eu-north-1.amazonaws.com"),
        ("s3://photos?virtual_hosted=yes", "https://photos.s3.eu-north-1.amazonaws.com"),
        ("s3://photos?endpoint=http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("gs://photos", "https://storage.googleapis.com"),
        ("az://photos?account=shop", "https://shop.blob.core.windows.net"),
        ("az://photos?endpoint=http://127.0.0.1:10000/dev", "http://127.0.0.1:10000"),
    ],
)
def test_origin_of_presigned_links_is_known(text: str, origin: str) -> None:
    """The page's policy names where redirects lead."""
    assert parse_storage_url(text).public_origin({"AWS_REGION": "eu-north-1"}) == origin


def test_credentials_are_named_by_their_beginnings() -> None:
    """Each cloud's variables are withheld from processors, and no others."""
    environ = dict.fromkeys(["AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "PATH"], "x")
    assert credential_names(parse_storage_url("s3://photos"), environ) == ["AWS_SECRET_ACCESS_KEY"]
    assert credential_names(parse_storage_url("az://photos"), environ) == ["AZURE_STORAGE_ACCOUNT_KEY"]
    assert credential_names(None, environ) == []
