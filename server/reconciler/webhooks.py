"""Sends the webhooks of sessions that have ended, until their receivers accept them.

At least once: an attempt is counted before it is made, and noted as delivered after its
answer. A process that is killed in between leaves the next attempt to another one; the
receiver knows a repeat by its ``webhook-id``. What is sent is the session as it is, and
nothing once it was erased or has expired.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
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
from tryon.protocol.errors import Unavailable

log = logging.getLogger("tryon.webhooks")

NO_TICKET: Final = 2**40
"""End of the ticket that a receiver would have shown: it is given none, and no link of
its outlives its own time.
"""
AT_ONCE: Final = 200
"""Maximum webhooks that are being sent."""
AT_ONCE_EACH: Final = 20
"""Maximum of them to one receiver; only one to a receiver that did not accept the last
one, so that 200 silent receivers leave no room for another, not 10.
"""
LOOK_SECONDS: Final = 1.0
"""Time until other webhooks that are due are looked for while a receiver is silent."""
WRITES_AT_ONCE: Final = 5
"""Maximum database connections that are used."""
MAX_FAILING: Final = 1000
"""Maximum receivers that are remembered for not having accepted the last one."""


class Webhooks:
    """Sends what is due. State: what is being sent, and which receivers fail.

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
        self._writes = asyncio.Semaphore(WRITES_AT_ONCE)
        self._sending: dict[asyncio.Task[None], tuple[str, str]] = {}
        """The session and the receiver of each attempt."""
        self._failing: set[str] = set()

    def __repr__(self) -> str:
        return f"<Webhooks {self._sender!r} secrets={len(self._secrets)} sending={len(self._sending)}>"

    async def deliver(self) -> None:
        """Make one attempt at each webhook that is due. Raises Unavailable.

        Also at those that become due meanwhile: a silent receiver delays no other.
        """
        if not self._secrets:
            return
        failed: BaseException | None = None
        try:
            while True:
                try:
                    if failed is None:  # else no more begin, and those in flight are not cut off
                        await self._begin()
                except Unavailable as error:
                    failed = error
                if not self._sending:
                    break
                done, _ = await asyncio.wait(self._sending, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del self._sending[task]
                    raised = task.exception()  # asked of each: asyncio logs what was never retrieved
                    failed = failed or raised
        finally:
            tasks = [*self._sending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._sending.clear()
        if failed is not None:
            raise failed

    async def _begin(self) -> None:
        """Begin an attempt at each webhook that is due and for which there is room."""
        begun = True
        while begun and (room := AT_ONCE - len(self._sending)) > 0:
            begun = left_out = False
            counts = Counter(receiver for _, receiver in self._sending.values())
            ids = [session_id for session_id, _ in self._sending.values()]
            for delivery in await self._deliveries.due(limit=room, except_ids=ids, except_urls=self._full(counts)):
                receiver = self._receiver(delivery.url)
                if counts[receiver] < self._most(receiver):
                    task = asyncio.create_task(self._attempt(delivery, receiver), name="webhook")
                    self._sending[task] = delivery.session_id, receiver
                    counts[receiver] += 1
                    begun = True
                else:  # there may be more of them than were read: behind them are those of others
                    left_out = True
            begun = begun and left_out

    def _receiver(self, url: str) -> str:
        """Return what all addresses at the same host and port begin with."""
        try:
            parsed = parse_webhook_url(url or self._url or "")
        except ValueError:
            return ""
        return f"{parsed.scheme}://{parsed.authority}/"

    def _most(self, receiver: str) -> int:
        return 1 if receiver in self._failing else AT_ONCE_EACH

    def _full(self, counts: Mapping[str, int]) -> set[str]:
        """Return the beginnings of the addresses to which nothing more is sent now."""
        full = {receiver for receiver, count in counts.items() if count >= self._most(receiver)}
        return full | {""} if self._receiver("") in full else full

    def _note(self, receiver: str, *, accepted: bool) -> None:
        if accepted:
            self._failing.discard(receiver)
        elif len(self._failing) < MAX_FAILING:
            self._failing.add(receiver)

    async def _attempt(self, delivery: Delivery, receiver: str) -> None:
        # Beyond the end of this attempt, or it would overlap with the next.
        pause = SEND_SECONDS + pause_seconds(delivery.attempts + 1)
        async with self._writes:
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
            self._note(receiver, accepted=False)
            metrics.webhooks.labels("undelivered").inc()
            log.warning(
                "Webhook of session %s was not accepted, attempt %d: %s", session.id, delivery.attempts + 1, error
            )
            return
        self._note(receiver, accepted=True)
        async with self._writes:
            await self._deliveries.note_delivered(session.id)
        metrics.webhooks.labels("delivered").inc()
        log.info("Delivered webhook of session %s: %s", session.id, session.status)
