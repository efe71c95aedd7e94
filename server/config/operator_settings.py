"""The settings of the operator's page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.config import parsing
from server.config.database_settings import DatabaseSettings
from server.config.parsing import UploadRate
from server.config.rows import setting

WRONG_OPERATORS: Final = UploadRate(10, 60)
"""Wrong tokens of operators per client address; then none is looked at for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings(DatabaseSettings):
    """A part of the settings; :class:`~server.config.settings.Config` has all."""

    ops_tokens: tuple[str, ...] = setting(
        (),
        "Opens the operator's page /ops: at least 22 characters; several, separated by commas, one for each operator.",
        parsing.operator_tokens,
        shown="none: there is no such page",
    )
