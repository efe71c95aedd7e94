"""The connection to an object storage: its client, and the time-outs of that."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from server.adapters.files.object_errors import summary
from server.config.storage_url import StorageUrl

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

CONNECT_SECONDS: Final = 3.0

SILENT_SECONDS: Final = 60.0
"""Time without an answer after which a request ends that nothing waits for any more."""

_ENDLESS: Final = timedelta(days=1)

RETRIES: Final = 2
"""Further tries of a request that the storage could not serve."""


def connect(url: StorageUrl, environ: Mapping[str, str]) -> S3Store | GCSStore | AzureStore:
    """Return the client of a bucket; nothing is asked yet.

    The credentials are those of the environment. Raises ValueError with a reason that
    holds none of them.
    """
    endpoint = url.endpoint(environ)
    client: ClientConfig = {
        "allow_http": bool(endpoint and endpoint.startswith("http:")),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=SILENT_SECONDS),
        "timeout": _ENDLESS,  # of a whole download; each pause of it is bounded by its reader
    }
    retry: RetryConfig = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=5),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
    }
    common: dict[str, Any] = {"prefix": url.prefix or None, "client_options": client, "retry_config": retry}
    try:
        if url.scheme == "s3":
            return S3Store(url.bucket, **common, **_s3(url, endpoint, environ))
        if url.scheme == "gs":
            return GCSStore(url.bucket, **common, **_gcs(endpoint))
        return AzureStore(url.bucket, **common, **_azure(url, endpoint, environ))
    except (BaseError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"the storage cannot be used: {summary(error)}") from None


def _s3(url: StorageUrl, endpoint: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {"region": url.region(environ)}
    if endpoint:
        options["endpoint"] = endpoint
    if sse := url.options.get("sse"):
        options["server_side_encryption"] = sse
    if kms_key := url.options.get("kms_key"):
        options["sse_kms_key_id"] = kms_key
    if virtual_hosted := url.options.get("virtual_hosted"):
        options["virtual_hosted_style_request"] = virtual_hosted == "yes"
    return options


def _gcs(endpoint: str | None) -> dict[str, Any]:
    return {"base_url": endpoint} if endpoint else {}


def _azure(url: StorageUrl, endpoint: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if account := url.account(environ):
        options["account_name"] = account
    if endpoint:
        options["endpoint"] = endpoint
    return options
