"""Sends usage events to the integrator's accounts until they are accepted.

At least once, as webhooks: an attempt is counted before it is made, and the row goes
after a 2xx. There is one receiver: while it does not accept, one attempt at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.usage_events import Untold, UsageOutbox
from server.adapters.webhooks.sender import SEND_SECONDS, Undelivered, WebhookSender
from server.config.webhook_url import parse_webhook_url
from server.domain.webhooks import headers_of, pause_seconds
from server.telemetry import metrics

log = logging.getLogger("tryon.usage")

AT_ONCE: Final = 20
"""Maximum events that are being sent."""


class UsageReports:
    """Sends what is due; stateless. ``keep_seconds``: for the receiver to come back."""

    def __init__(
        self,
        *,
        outbox: UsageOutbox,
        sender: WebhookSender,
        database_clock: DatabaseClock,
        url: str | None,
        secrets: Sequence[bytes],
        keep_seconds: float,
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._database_clock = database_clock
        self._url = None if url is None else parse_webhook_url(url)
        self._secrets = secrets
        self._keep_seconds = keep_seconds

    def __repr__(self) -> str:
        return f"<UsageReports {'to a receiver' if self._url else 'off'}>"

    async def deliver(self) -> None:
        """Make one attempt at each event that is due. Raises Unavailable."""
        if lost := await self._outbox.remove_older(self._keep_seconds):
            metrics.usage_events.labels("dropped").inc(lost)
            log.error("Dropped %d usage events that were not accepted in %d s", lost, self._keep_seconds)
        if self._url is None:  # there was a receiver once: what it has not accepted goes in time
            return
        at_once = 1
        while events := await self._outbox.due(limit=at_once):
            accepted = await asyncio.gather(*(self._attempt(event) for event in events), return_exceptions=True)
            for failed in accepted:  # all have ended by now
                if isinstance(failed, BaseException):
                    raise failed
            if False in accepted:
                return
            at_once = AT_ONCE

    async def _attempt(self, event: Untold) -> bool:
        """Return False if the receiver did not accept the event."""
        assert self._url is not None
        pause = SEND_SECONDS + pause_seconds(event.attempts + 1)
        if not await self._outbox.begin(event, pause_seconds=pause):
            return True
        body = event.body.encode()
        headers = headers_of(event.id, body, at=self._database_clock.now(), secrets=self._secrets)
        try:
            await self._sender.post(self._url, headers, body)
        except Undelivered as error:
            metrics.usage_events.labels("undelivered").inc()
            log.warning("Usage event %s was not accepted, attempt %d: %s", event.id, event.attempts + 1, error)
            return False
        await self._outbox.remove(event.id)
        metrics.usage_events.labels("delivered").inc()
        return True
