"""The owner behind a credential: an anonymous token, or a user of the integrator.

Both become the same thing, an owner's id of 64 hex digits: sessions, lists, limits and
logs know no other. Neither a token nor the name of a user is stored.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from server.domain.tokens import token_hash

Claims = Mapping[str, object]
"""The claims of a verified JWT (RFC 7519 section 4)."""

MAX_SUBJECT: Final = 1000
"""Maximum characters of an issuer or a subject."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose credential is valid."""

    owner: str
    """Id of the owner, 64 hex digits."""
    scopes: frozenset[str] = frozenset()
    claims: Claims = field(default_factory=dict, repr=False)
    """The scopes of the JWT; empty for an anonymous token."""
    anonymous: bool = True
    """Whether the credential is an anonymous token."""

    @classmethod
    def of_token(cls, token: str) -> Identity:
        """Return the identity of a client that presented this anonymous token."""
        return cls(token_hash(token))


class OwnerIds:
    """Owners' ids of users: HMAC-SHA256 (RFC 2104) of issuer and subject.

    An id does not tell its user without the key, although subjects can be guessed.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "<OwnerIds>"

    def of(self, issuer: str, subject: str) -> str:
        """Return the id of a user: the digest of issuer, line feed and subject."""
        return hmac.digest(self._key, f"{issuer}\n{subject}".encode(), "sha256").hex()


def scopes_of(claims: Claims) -> frozenset[str]:
    """Return the scopes of a JWT: ``scope`` (RFC 8693 section 4.2), ``scp`` or both.

    Each is words with spaces between, or a list of words.
    """
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            found.update(value.split())
        elif isinstance(value, list):
            found.update(each for each in value if isinstance(each, str))
    return frozenset(found)
