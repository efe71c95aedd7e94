"""Starts what a process reports to other systems: traces and errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from server.config.settings import Config, ConfigError
from server.domain.tokens import SecretKey
from server.telemetry import tracing


def start_reporting(config: Config, part: Literal["web", "worker"]) -> Callable[[float], None]:
    """Report traces and errors where the settings say so.

    Return a function that sends what still waits, for at most so many seconds, and
    ends it. Raises ConfigError if the packages are missing or a setting is refused.
    """
    closing: list[Callable[[float], None]] = []
    tracer = None
    if config.traces_url:
        try:
            from server.telemetry.otel import OtelTracer
        except ModuleNotFoundError as error:
            raise _missing("TRYON_TRACES_URL", "otel", error) from None
        key = SecretKey.of(config.signing_keys()[0]).subkey("traces")
        tracer = OtelTracer(
            config.traces_url, dict(config.traces_headers), share=config.traces_share, key=key, part=part
        )
        closing.append(tracer.close)
    tracing.enable(tracer, frames=config.trace_frames)
    if config.sentry_dsn:
        try:
            from server.telemetry import sentry
        except ModuleNotFoundError as error:
            raise _missing("TRYON_SENTRY_DSN", "sentry", error) from None
        sentry.start(config.sentry_dsn, part=part)
        closing.append(sentry.close)
    return functools.partial(_close, closing)


def _missing(setting: str, extra: str, error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f"{setting} needs packages that are missing ({error.name}): pip install 'tryon-push[{extra}]'")


def _close(closing: list[Callable[[float], None]], seconds: float) -> None:
    for close in closing:
        close(seconds)
