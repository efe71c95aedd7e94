"""The one map from an object storage's errors to the product's.

An object storage says in words what went wrong: ``obstore`` has few classes. Its text
is never shown or logged as it is: with some credentials an address in it is a secret.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from server.adapters.files.errors import unavailable
from tryon.protocol.errors import StorageFull

_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")

FULL_STATUS: Final = 507
"""Insufficient Storage (RFC 4918 section 11.5), as MinIO and others answer."""

FULL_CODES: Final = frozenset(
    {
        *("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "StorageFull", "InsufficientStorage"),
        *("QuotaExceeded", "QuotaExceededException", "InsufficientCapacity"),  # Ceph and others
        "AccountLimitExceeded",
    }
)
"""Error codes of a storage without room, or with a quota that is used up."""


BUCKET_CODES: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "NoSuchContainer"})
"""Error codes of a missing bucket: its objects are unavailable, not missing."""

BUCKET_WORDS: Final = "The specified container does not exist"
"""Azure's words for the same in the answer to a batch of deletions, without a code."""


class StorageRefusal(Exception):
    """The storage's own words, safe to show: the cause of a mapped error."""


def refuse(error: BaseException, *, writes: bool = False) -> NoReturn:
    """Raise what a failed call means: Unavailable, or StorageFull of one that writes.

    A storage without room may refuse readings and deletions by the same words.
    """
    full = writes and (_status(error) == FULL_STATUS or _code(error) in FULL_CODES)
    raise StorageFull() if full else unavailable() from StorageRefusal(summary(error))


def bucket_is_missing(error: FileNotFoundError) -> bool:
    """Return whether not the object is missing but its bucket."""
    return _code(error) in BUCKET_CODES or BUCKET_WORDS in str(error)


def summary(error: BaseException) -> str:
    """Return in a few words what went wrong, without addresses and keys."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    status, code = _status(error), _code(error)
    if status:
        return f"it answered {status} {code or ''}".rstrip()
    text = str(error)
    if "NoCredentials" in text or "credential" in text.lower() or "metadata" in text.lower():
        return "it has no credentials (docs/storage.md names the variables)"
    if "error sending request" in text or "HTTP error" in text or "connect" in text.lower():
        return "it cannot be reached"
    return f"it failed ({type(error).__name__})"


def _status(error: BaseException) -> int | None:
    match = _STATUS.search(str(error))
    return int(match[1]) if match else None


def _code(error: BaseException) -> str | None:
    match = _CODE.search(str(error))
    return match[1] if match else None
