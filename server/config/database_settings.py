"""The settings of the connections to PostgreSQL; SQLite has none of them.

They bound what one process may take of the server, and how long it may hold it. A call
that meets a bound is refused (503 ``unavailable``, with Retry-After) and counted
(``tryon_database_refusals_total``).
"""

from __future__ import annotations

from dataclasses import dataclass

from server.config import parsing
from server.config.reporting_settings import ReportingSettings
from server.config.rows import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings(ReportingSettings):
    """A part of the settings; :class:`~server.config.settings.Config` has all."""

    database_connections: int = setting(
        10, "Connections to PostgreSQL that a process keeps open, at most.", parsing.integer(1, 1000)
    )
    database_burst: int = setting(
        10,
        "Further connections to PostgreSQL that a process opens while those are busy, and closes after use.",
        parsing.integer(0, 1000),
    )
    database_wait_seconds: float = setting(
        1.5,
        "How long a call waits for one of them, then it is refused; a read has 2 s in all.",
        parsing.seconds(0.01, 1.9),
        unit="seconds",
    )
    database_statement_seconds: float = setting(
        4.5, "PostgreSQL's statement_timeout.", parsing.seconds(0.1, 60), unit="seconds"
    )
    database_lock_seconds: float = setting(
        4.0,
        "PostgreSQL's lock_timeout: how long a statement waits for a lock.",
        parsing.seconds(0.1, 60),
        unit="seconds",
    )
    database_idle_seconds: float = setting(
        10.0,
        "PostgreSQL's idle_in_transaction_session_timeout: a process that stops within a transaction locks its rows "
        "no longer.",
        parsing.seconds(0.1, 600),
        unit="seconds",
    )
