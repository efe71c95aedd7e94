"""The URL of an object storage: which bucket, where, and how its objects are encrypted.

It never holds a key. The credentials come from the environment, under the names that
each cloud's own tools use, and no reason of a refusal repeats a part of the URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlsplit

OPTIONS: Final[dict[str, frozenset[str]]] = {
    "s3": frozenset({"region", "endpoint", "sse", "kms_key", "virtual_hosted"}),
    "gs": frozenset({"endpoint"}),
    "az": frozenset({"account", "endpoint"}),
}
"""Options of a URL by its scheme."""

CREDENTIAL_PREFIXES: Final[dict[str, tuple[str, ...]]] = {
    "s3": ("AWS_",),
    "gs": ("GOOGLE_", "GCP_", "GCLOUD_", "CLOUDSDK_"),
    "az": ("AZURE_", "MSI_", "IDENTITY_"),
}
"""Beginnings of the variables with a storage's credentials, by its URL's scheme."""

ENCRYPTIONS: Final = ("AES256", "aws:kms", "aws:kms:dsse")
"""Values of ``sse``: server-side encryption with keys of S3, or of KMS."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII)
_PREFIX: Final = re.compile(r"(?:/[0-9A-Za-z_=-][0-9A-Za-z._=-]{0,127}){1,8}", re.ASCII)
_ENDPOINT: Final = re.compile(
    r"https?://(?:[0-9A-Za-z][0-9A-Za-z.-]{0,250}|\[[0-9a-f:]+\])(?::[0-9]{1,5})?(?:/[0-9A-Za-z_-]+)?", re.ASCII
)
_VALUES: Final[dict[str, re.Pattern[str]]] = {
    "region": re.compile(r"[a-z0-9-]{1,40}", re.ASCII),
    "endpoint": _ENDPOINT,
    "sse": re.compile("|".join(ENCRYPTIONS), re.ASCII),
    "kms_key": re.compile(r"[0-9A-Za-z:/_-]{1,300}", re.ASCII),
    "virtual_hosted": re.compile(r"yes|no", re.ASCII),
    "account": re.compile(r"[a-z0-9]{3,24}", re.ASCII),
}


@dataclass(frozen=True, slots=True)
class StorageUrl:
    """An object storage, taken apart. ``options`` has the names of :data:`OPTIONS`."""

    scheme: str
    bucket: str
    prefix: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    def endpoint(self, environ: Mapping[str, str]) -> str | None:
        """Return the server that is asked; None stands for the cloud's own.

        The URL's option wins over the variables that the cloud's tools read.
        """
        if found := self.options.get("endpoint"):
            return found
        return next((environ[name] for name in _ENDPOINTS[self.scheme] if environ.get(name)), None)

    def region(self, environ: Mapping[str, str]) -> str:
        """Return the region of an S3 bucket."""
        return (
            self.options.get("region") or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        )

    def account(self, environ: Mapping[str, str]) -> str:
        """Return the storage account of an Azure container; empty if none is named."""
        return self.options.get("account") or environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")

    def public_origin(self, environ: Mapping[str, str]) -> str:
        """Return the origin to which presigned links lead, for a page's policy."""
        if endpoint := self.endpoint(environ):
            scheme, _, rest = endpoint.partition("://")
            return f"{scheme}://{rest.partition('/')[0]}"
        if self.scheme == "gs":
            return "https://storage.googleapis.com"
        if self.scheme == "az":
            return f"https://{self.account(environ)}.blob.core.windows.net"
        bucket = f"{self.bucket}." if self.options.get("virtual_hosted") == "yes" else ""
        return f"https://{bucket}s3.{self.region(environ)}.amazonaws.com"


def credential_names(url: StorageUrl | None, environ: Mapping[str, str]) -> list[str]:
    """Return the variables that may hold a storage's credentials, or lead to them."""
    prefixes = () if url is None else CREDENTIAL_PREFIXES[url.scheme]
    return sorted(name for name in environ if name.startswith(prefixes))


_ENDPOINTS: Final[dict[str, tuple[str, ...]]] = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": (),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


def parse_storage_url(text: str) -> StorageUrl:
    """Return the storage that a URL names. Raises ValueError, without the URL."""
    scheme, found, _ = text.partition("://")
    if not found or scheme not in OPTIONS:
        raise ValueError("must begin with s3://, gs:// or az://")
    try:
        parts = urlsplit(text)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), max_num_fields=20)
    except ValueError:  # its words may show a key
        raise ValueError(_SHAPE) from None
    if "@" in parts.netloc:
        raise ValueError("holds no keys; they come from the environment (docs/storage.md)")
    prefix = parts.path.rstrip("/")
    if parts.fragment or not _BUCKET.fullmatch(parts.netloc) or (prefix and not _PREFIX.fullmatch(prefix)):
        raise ValueError(_SHAPE)
    options = dict(pairs)
    known = ", ".join(sorted(OPTIONS[scheme]))
    if len(options) < len(pairs) or not options.keys() <= OPTIONS[scheme]:
        raise ValueError(f"the options of {scheme}:// are {known}, each once at most; keys are none of them")
    for name, value in options.items():
        if not _VALUES[name].fullmatch(value):
            raise ValueError(f"its {name} is malformed")
    if "kms_key" in options and not options.get("sse", "").startswith("aws:kms"):
        raise ValueError("kms_key needs sse=aws:kms")
    return StorageUrl(scheme, parts.netloc, prefix.lstrip("/"), options)


_SHAPE: Final = "must look like s3://bucket/prefix?region=eu-central-1"
