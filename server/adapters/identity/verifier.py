"""Judges JWTs (RFC 7519, with the advice of RFC 8725): signature and claims.

A token may hold anything. It is bounded before it is parsed; its algorithm must be one
of the settings, its key one that its issuer publishes for that algorithm, and what the
library raises about it is a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from server.adapters.identity.fetching import JsonFetcher
from server.adapters.identity.issuer_keys import IssuerKeys
from server.adapters.identity.key_sets import MAX_KID
from server.domain.identities import MAX_SUBJECT, Claims, Identity, OwnerIds, scopes_of
from server.system.clock import Clock
from tryon.protocol.errors import Forbidden, Unauthorized

if TYPE_CHECKING:
    from jwt import PyJWK

MAX_TOKEN_BYTES: Final = 8192
"""Maximum length of a token."""

LEEWAY_SECONDS: Final = 30
"""Difference of clocks that is forgiven in ``exp``, ``nbf`` and ``iat``."""

DETAIL: Final = "The token is expired, forged, or not meant for this service."
_ODD: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""Errors of the library about hostile content, beside its own."""


def is_jwt(token: str) -> bool:
    """Return whether a credential is a JWT: an anonymous token has no dots."""
    return "." in token


class TokenVerifier:
    """The judge of users' tokens; for one event loop.

    ``key_urls``: addresses of the keys in the order of ``issuers``; fewer: the others'
    are discovered. ``scope``: required of every token; None: none.
    """

    def __init__(
        self,
        *,
        issuers: Sequence[str],
        key_urls: Sequence[str],
        audiences: Sequence[str],
        algorithms: Sequence[str],
        scope: str | None,
        owner_ids: OwnerIds,
        clock: Clock,
        fetcher: JsonFetcher | None = None,
    ) -> None:
        self._fetcher = fetcher or JsonFetcher()
        self._audiences = list(audiences)
        self._algorithms = frozenset(algorithms)
        self._scope = scope
        self._owner_ids = owner_ids
        urls = [*key_urls, *[None] * len(issuers)]
        self._issuers: Mapping[str, IssuerKeys] = {
            issuer: IssuerKeys(issuer, url, fetcher=self._fetcher, clock=clock)
            for issuer, url in zip(issuers, urls, strict=False)
        }

    def __repr__(self) -> str:
        return f"<TokenVerifier {list(self._issuers)}>"

    async def close(self) -> None:
        """Close the connections to issuers."""
        for keys in self._issuers.values():
            await keys.close()
        await self._fetcher.close()

    async def verify(self, token: str) -> Identity:
        """Return the identity of a valid token.

        Raises Unauthorized; Forbidden without the required scope; Unavailable while its
        key cannot be asked for.
        """
        issuer, kid, algorithm = self._outside(token)
        key = await self._issuers[issuer].find(kid, algorithm)
        claims = self._inside(token, key, algorithm, issuer)
        scopes = scopes_of(claims)
        if self._scope is not None and self._scope not in scopes:
            raise Forbidden("insufficient_scope")
        owner = self._owner_ids.of(issuer, str(claims["sub"]))
        return Identity(owner, scopes, claims, anonymous=False)

    def _outside(self, token: str) -> tuple[str, str | None, str]:
        """Return issuer, key id and algorithm, which choose the key."""
        import jwt

        if not self._issuers or len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise Unauthorized("invalid_token")
        try:
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, *_ODD):
            raise Unauthorized("invalid_token", DETAIL) from None
        header, claims = unverified["header"], unverified["payload"]
        issuer, kid, algorithm = claims.get("iss"), header.get("kid"), header.get("alg")
        if not isinstance(issuer, str) or issuer not in self._issuers:
            raise Unauthorized("invalid_token", DETAIL)
        if not isinstance(algorithm, str) or algorithm not in self._algorithms or "crit" in header:
            raise Unauthorized("invalid_token", DETAIL)
        if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID):
            raise Unauthorized("invalid_token", DETAIL)
        return issuer, kid, algorithm

    def _inside(self, token: str, key: PyJWK, algorithm: str, issuer: str) -> Claims:
        import jwt

        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audiences,
                issuer=issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "sub", "aud"]},
            )
            subject: object = claims["sub"]
            if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT:
                raise ValueError("sub")
            subject.encode()  # a lone surrogate has no bytes
        except (jwt.PyJWTError, *_ODD):
            raise Unauthorized("invalid_token", DETAIL) from None
        return claims
