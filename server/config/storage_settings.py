"""The settings of the storage of photos and results.

One class continues the other: dataclasses with slots cannot be joined side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.config import parsing
from server.config.operator_settings import OperatorSettings
from server.config.rows import setting
from server.config.storage_url import StorageUrl, parse_storage_url


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings(OperatorSettings):
    """A part of the settings; :class:`~server.config.settings.Config` has all."""

    storage_url: StorageUrl | None = setting(
        None,
        "Where photos and results are kept: s3://bucket/prefix?region=…&endpoint=…&sse=…, gs:// or az://; "
        "docs/storage.md.",
        parse_storage_url,
        shown="the data folder",
    )
    presigned: bool = setting(
        False,
        "Whether links to results lead to the bucket itself, by a presigned link: on or off.",
        parsing.on_or_off,
        shown="off",
    )
