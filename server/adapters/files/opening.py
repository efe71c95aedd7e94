"""The storage that the settings name: a folder, or a bucket."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from server.adapters.files.local import LocalFiles
from server.adapters.files.port import Files
from server.adapters.files.threads import StorageThreads
from server.config.settings import Config, ConfigError
from server.config.storage_url import StorageUrl
from tryon.protocol.errors import TryOnError

log = logging.getLogger("tryon.storage")


async def open_files(config: Config, threads: StorageThreads) -> Files:
    """Return the storage of photos and results; a folder is made if it is missing.

    A bucket is not asked yet. Raises ConfigError.
    """
    if config.storage_url is not None:
        return open_object_store(config.storage_url, presigned=config.presigned)
    files = LocalFiles(config.uploads_dir, threads)
    try:
        await files.make_folders()
    except TryOnError as error:
        log.warning("The storage in %s cannot be used now: %s", files.root, error.__cause__ or error.detail)
    return files


def open_object_store(url: StorageUrl, *, presigned: bool = False, environ: Mapping[str, str] | None = None) -> Files:
    """Return the storage in a bucket. Raises ConfigError, one line without a key."""
    try:
        from server.adapters.files.object_connection import connect
        from server.adapters.files.object_store import ObjectStoreFiles
    except ImportError:
        raise ConfigError("TRYON_STORAGE_URL needs obstore: pip install 'tryon-push[cloud]'") from None
    try:
        return ObjectStoreFiles(connect(url, os.environ if environ is None else environ), str(url), presigned=presigned)
    except ValueError as error:
        raise ConfigError(f"TRYON_STORAGE_URL: {error}") from None


async def check_storage(config: Config) -> None:
    """Raise ConfigError, one line, if objects cannot be kept in the bucket.

    A folder is none of its concern.
    """
    if config.storage_url is None:
        return
    try:
        await open_object_store(config.storage_url).check()
    except TryOnError as error:
        reason = error.__cause__ or error.detail
        raise ConfigError(f"TRYON_STORAGE_URL: {config.storage_url} cannot be used: {reason}") from None
