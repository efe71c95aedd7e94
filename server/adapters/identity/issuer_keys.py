"""The keys of one issuer: cached, renewed, and asked for anew when a token needs more.

Theory of operation. Keys rotate: a token may come that is signed with a key which was
published a moment ago. So an unknown key id asks the issuer at once. But ids can be
forged, and forged ones must not make this server flood the issuer: after the beginning
of a fetch no other begins for PAUSE_SECONDS. A token whose key id is unknown within the
pause cannot be judged, since its key may be newer than the last fetch. It is refused as
*unavailable* with the time until the next fetch, never as forged; only a fetch that
began after the token came proves that no such key exists.

Known keys go on while the issuer is unavailable (stale-if-error, RFC 5861), for a day;
they are renewed in the background every FRESH_SECONDS, so a key that the issuer has
withdrawn ends soon. If the last fetch ended OLD_SECONDS ago or more, the next token
waits for new keys: the issuer may have withdrawn its key long ago. In an outage tokens
wait no more often than that. Requests at the same time share one fetch.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Final

from server.adapters.identity.fetching import JsonFetcher, NotFetched
from server.adapters.identity.key_sets import KeySet
from server.system.clock import Clock
from server.telemetry import metrics
from tryon.protocol.errors import Unauthorized, Unavailable

if TYPE_CHECKING:
    from jwt import PyJWK

log = logging.getLogger("tryon.identity")

FRESH_SECONDS: Final = 300.0
"""Age at which keys are renewed in the background."""

OLD_SECONDS: Final = 2 * FRESH_SECONDS
"""Time since the end of the last fetch after which a token waits for new keys."""

PAUSE_SECONDS: Final = 10.0
"""Time from the beginning of a fetch to that of the next one, at least."""

STALE_SECONDS: Final = 86400.0
"""Age at which keys no longer count, if the issuer could not be asked since."""


class IssuerKeys:
    """The keys of one issuer.

    ``key_url``: the address of its JWK Set; None: asked of its discovery document. For
    one event loop.
    """

    def __init__(self, issuer: str, key_url: str | None, *, fetcher: JsonFetcher, clock: Clock) -> None:
        self._issuer = issuer
        self._key_url = key_url
        self._fetcher = fetcher
        self._clock = clock
        self._keys = KeySet(())
        self._fetched_at = -math.inf
        """Time of the last fetch that succeeded, by the monotonic clock."""
        self._began_at = -math.inf
        """Time at which the last fetch began."""
        self._ended_at = -math.inf
        """Time at which the last fetch ended, also one that failed."""
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<IssuerKeys {self._issuer} {self._keys!r}>"

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def find(self, kid: str | None, algorithm: str) -> PyJWK:
        """Return the key of a token's header.

        Raises Unauthorized if the issuer has no such key, Unavailable if that cannot be
        told now.
        """
        now = self._clock.monotonic()
        if now - self._fetched_at >= STALE_SECONDS:
            self._keys = KeySet(())
        if (key := self._keys.find(kid, algorithm)) is not None:
            old = now - self._ended_at >= OLD_SECONDS
            fetching = self._begin(now) if now - self._fetched_at >= FRESH_SECONDS else None
            if old and fetching is not None:
                await asyncio.shield(fetching)  # if it fails, the keys are as they were
                key = self._keys.find(kid, algorithm)
            if key is None:
                raise Unauthorized("invalid_token")  # withdrawn
            return key
        if kid is not None and self._keys.has(kid) and now - self._fetched_at < PAUSE_SECONDS:
            raise Unauthorized("invalid_token")  # it is known, and cannot sign like this
        began = self._began_at
        if (fetching := self._begin(now)) is not None:
            await asyncio.shield(fetching)
            if (key := self._keys.find(kid, algorithm)) is not None:
                return key
        if self._began_at > began and self._fetched_at >= self._began_at:
            raise Unauthorized("invalid_token")
        raise Unavailable(retry_after=max(1.0, self._began_at + PAUSE_SECONDS - self._clock.monotonic()))

    def _begin(self, now: float) -> asyncio.Task[None] | None:
        """Return the fetch under way; begin one unless it is the time of the pause."""
        if self._fetching is None and now - self._began_at >= PAUSE_SECONDS:
            self._began_at = now
            self._fetching = asyncio.create_task(self._fetch(), name="issuer-keys")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            keys = KeySet.of(await self._fetcher.fetch(self._key_url or await self._discovered()))
            if keys is None:
                raise NotFetched("the answer is no JWK Set")
        except NotFetched as error:
            metrics.issuer_key_fetches.labels("unavailable").inc()
            log.warning("Keys of issuer %s not fetched: %s", self._issuer, error)
        else:
            self._keys, self._fetched_at = keys, self._clock.monotonic()
            metrics.issuer_key_fetches.labels("fetched").inc()
        finally:
            self._fetching = None
            self._ended_at = self._clock.monotonic()

    async def _discovered(self) -> str:
        """Return the address of the keys by OpenID Connect Discovery 1.0, section 4.

        An issuer without that document has its keys at ``/.well-known/jwks.json``.
        """
        base = self._issuer.rstrip("/")
        try:
            document = await self._fetcher.fetch(f"{base}/.well-known/openid-configuration")
        except NotFetched as error:
            if str(error) not in ("answered 404", "answered 410"):
                raise
            return f"{base}/.well-known/jwks.json"
        url = document.get("jwks_uri") if isinstance(document, dict) else None
        if not isinstance(document, dict) or document.get("issuer") != self._issuer or not isinstance(url, str):
            raise NotFetched("its discovery document is of another issuer, or names no keys")
        return url
