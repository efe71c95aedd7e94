"""A set of public keys, read from a JWK Set (RFC 7517): bounded, and forgiving.

A set may hold anything: keys for other uses, kinds that nothing here knows, broken
ones. Each is left out by itself, and the others still verify.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jwt import PyJWK

MAX_KEYS: Final = 100
"""Maximum keys of a set that are read; more are left out."""

MAX_KID: Final = 256
"""Maximum characters of a key's id."""

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""Size of an RSA key: RFC 7518 section 3.3 asks for 2048; 8192 verifies in 0.2 ms."""

_KINDS: Final[Mapping[str, tuple[str, str | None]]] = {
    **{f"{family}{bits}": ("RSA", None) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Kind and curve of the key that an algorithm needs."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One key as the set has it."""

    kid: str | None
    jwk: Mapping[str, object] = field(repr=False)

    def fits(self, algorithm: str) -> bool:
        """Return whether the key is meant for signatures by this algorithm."""
        kind, curve = _KINDS[algorithm]
        jwk, operations = self.jwk, self.jwk.get("key_ops")
        return (
            jwk.get("kty") == kind
            and (curve is None or jwk.get("crv") == curve)
            and jwk.get("alg", algorithm) == algorithm
            and jwk.get("use", "sig") == "sig"
            and (operations is None or (isinstance(operations, list) and "verify" in operations))
        )


class KeySet:
    """The keys of one issuer. Keys are made when a token first needs them."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._entries = entries
        self._made: dict[tuple[int, str], PyJWK | None] = {}
        """The key for each entry and algorithm; None: broken."""

    def __repr__(self) -> str:
        return f"<KeySet of {len(self._entries)}>"

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def of(cls, document: object) -> KeySet | None:
        """Return the keys of a document; None if it is no JWK Set."""
        keys = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(keys, list):
            return None
        entries = []
        for jwk in keys[:MAX_KEYS]:
            if isinstance(jwk, dict):
                kid = jwk.get("kid")
                if kid is None or (isinstance(kid, str) and len(kid) <= MAX_KID):
                    entries.append(_Entry(kid, jwk))
        return cls(entries)

    def has(self, kid: str) -> bool:
        """Return whether a key has this id."""
        return any(entry.kid == kid for entry in self._entries)

    def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """Return the key of a token's header.

        A token that names no key has the only one that fits, if it is the only one.
        """
        fitting = [
            (place, entry)
            for place, entry in enumerate(self._entries)
            if entry.fits(algorithm) and (kid is None or entry.kid == kid)
        ]
        if not fitting or (kid is None and len(fitting) > 1):
            return None
        place, entry = fitting[0]
        if (place, algorithm) not in self._made:
            self._made[place, algorithm] = _key(entry.jwk, algorithm)
        return self._made[place, algorithm]


def _key(jwk: Mapping[str, object], algorithm: str) -> PyJWK | None:
    """Return the public key; None if it is broken or of a size that is refused."""
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    public = {name: value for name, value in jwk.items() if name in ("kty", "crv", "n", "e", "x", "y")}
    modulus = public.get("n")
    if isinstance(modulus, str) and len(modulus) > MAX_RSA_BITS // 6 + 8:
        return None
    try:
        key = jwt.PyJWK(public, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError, UnsupportedAlgorithm):
        return None
    if isinstance(key.key, RSAPublicKey) and not MIN_RSA_BITS <= key.key.key_size <= MAX_RSA_BITS:
        return None
    return key
