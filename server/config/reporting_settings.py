"""The settings of what a process reports to other systems: traces and errors."""

from __future__ import annotations

from dataclasses import dataclass

from server.config import parsing
from server.config.limit_settings import LimitSettings
from server.config.rows import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportingSettings(LimitSettings):
    """A part of the settings; :class:`~server.config.settings.Config` has all."""

    traces_url: str | None = setting(
        None,
        "OTLP/HTTP address that spans are sent to: http://collector:4318/v1/traces.",
        parsing.http_url,
        shown="none",
    )
    traces_headers: tuple[tuple[str, str], ...] = setting(
        (),
        "Headers of calls to the collector: Authorization=Bearer …; several, separated by commas.",
        parsing.headers,
        shown="none",
    )
    traces_share: float = setting(1.0, "Share of traces that are recorded.", parsing.number(float, 0, 1))
    trace_frames: bool = setting(
        False, "Whether pushed events carry their trace (W3C traceparent): yes or no.", parsing.yes_or_no, shown="no"
    )
    sentry_dsn: str | None = setting(
        None, "Address that errors are reported to, as Sentry gives it.", parsing.sentry_dsn, shown="none"
    )
