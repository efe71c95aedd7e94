"""Errors for Sentry, without anything personal. Needs the extra ``sentry``.

What is sent of an error is a list of what may be sent, not what is left after some
fields were removed: its type, its places in the code, the constant text of its log
line. The text of an exception, variables, requests and breadcrumbs may hold a person's
data, and stay here.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import sentry_sdk
from sentry_sdk.integrations.excepthook import ExcepthookIntegration
from sentry_sdk.integrations.logging import LoggingIntegration

from server import __version__

FIELDS: Final = ("event_id", "timestamp", "platform", "level", "logger", "release", "environment", "tags", "sdk")
PLACE: Final = ("filename", "module", "function", "lineno", "in_app")


def start(dsn: str, *, part: str) -> None:
    """Send errors from now on: log lines of that level, and what ends the process."""
    logging.getLogger("sentry_sdk").setLevel(logging.CRITICAL)
    sentry_sdk.init(
        dsn=dsn,
        release=f"tryon-push@{__version__}",
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[LoggingIntegration(level=None, event_level=logging.ERROR), ExcepthookIntegration()],
        before_send=lambda event, _: cleaned(event),
        send_default_pii=False,
        include_local_variables=False,
        include_source_context=False,
        max_breadcrumbs=0,
        shutdown_timeout=0.3,
    )
    sentry_sdk.set_tag("part", part)


def cleaned(event: Any) -> Any:
    """Return what of an event may leave this machine."""
    kept: dict[str, Any] = {name: event[name] for name in FIELDS if name in event}
    # The text of our own lines as it stands in the code, without its values. Those of
    # libraries may be formatted already: asyncio's show the text of exceptions.
    if "logentry" in event and f"{event.get('logger')}.".startswith("tryon."):
        kept["logentry"] = {"message": str(event["logentry"].get("message", ""))}
    errors = (event.get("exception") or {}).get("values") or []
    if errors:
        kept["exception"] = {"values": [_cleaned_error(each) for each in errors]}
    return kept


def _cleaned_error(error: dict[str, Any]) -> dict[str, Any]:
    places = (error.get("stacktrace") or {}).get("frames") or []
    frames = [{name: place[name] for name in PLACE if name in place} for place in places]
    return {"type": error.get("type"), "module": error.get("module"), "stacktrace": {"frames": frames}}


def close(seconds: float) -> None:
    """Send what waits, for at most ``seconds``."""
    sentry_sdk.get_client().close(timeout=seconds)
