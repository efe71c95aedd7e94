"""Sends the webhooks of sessions that have ended, until their receivers accept them.

At least once: an attempt is counted before it is made, and noted as delivered after its
answer. A process that is killed in between leaves the next attempt to another one; the
receiver knows a repeat by its ``webhook-id``. What is sent is the session as it is, and
nothing once it was erased or has expired.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.deliveries import Deliveries, Delivery
from server.adapters.database.reading import SessionReader
from server.adapters.webhooks.sender import SEND_SECONDS, Undelivered, WebhookSender
from server.config.webhook_url import parse_webhook_url
from server.domain.access import view
from server.domain.webhooks import body_of, headers_of, message_id, pause_seconds
from server.sessions.access import AccessIssuer
from server.telemetry import metrics

log = logging.getLogger("tryon.webhooks")

NO_TICKET: Final = 2**40
"""End of the ticket that a receiver would have shown: it is given none, and no link of
its outlives its own time.
"""
AT_ONCE: Final = 20
"""Webhooks sent at the same time; a slow receiver delays those of one round."""


class Webhooks:
    """Sends what is due; stateless.

    ``url`` is that of the settings; ``secrets`` sign, each of them.
    """

    def __init__(
        self,
        *,
        deliveries: Deliveries,
        reader: SessionReader,
        sender: WebhookSender,
        access: AccessIssuer,
        database_clock: DatabaseClock,
        url: str | None,
        secrets: Sequence[bytes],
    ) -> None:
        self._deliveries = deliveries
        self._reader = reader
        self._sender = sender
        self._access = access
        self._database_clock = database_clock
        self._url = url
        self._secrets = secrets

    def __repr__(self) -> str:
        return f"<Webhooks {self._sender!r} secrets={len(self._secrets)}>"

    async def deliver(self) -> None:
        """Make one attempt at each webhook that is due. Raises Unavailable."""
        if not self._secrets:
            return
        while due := await self._deliveries.due(limit=AT_ONCE):
            # Not a task group: the failure of one would cut off the others in flight.
            for failed in await asyncio.gather(*map(self._attempt, due), return_exceptions=True):
                if failed is not None:
                    raise failed

    async def _attempt(self, delivery: Delivery) -> None:
        # Beyond the end of this attempt, or it would overlap with the next.
        pause = SEND_SECONDS + pause_seconds(delivery.attempts + 1)
        if not await self._deliveries.begin(delivery, pause_seconds=pause):
            return
        session = await self._reader.get(delivery.session_id)
        address = delivery.url or self._url
        if session is None or address is None:  # erased meanwhile; or the setting has gone
            return
        now = self._database_clock.now()
        body = body_of(view(session, self._access.issue(until=NO_TICKET)))
        headers = headers_of(message_id(session.id, session.seq), body, at=now, secrets=self._secrets)
        try:
            await self._sender.post(parse_webhook_url(address), headers, body)
        except (Undelivered, ValueError) as error:
            metrics.webhooks.labels("undelivered").inc()
            log.warning(
                "Webhook of session %s was not accepted, attempt %d: %s", session.id, delivery.attempts + 1, error
            )
            return
        await self._deliveries.note_delivered(session.id)
        metrics.webhooks.labels("delivered").inc()
        log.info("Delivered webhook of session %s: %s", session.id, session.status)
