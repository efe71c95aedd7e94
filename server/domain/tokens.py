"""Anonymous tokens, tickets and signed links: access to a session without accounts.

A *token* is the client's own random secret (>= 128 bits); only its SHA-256 is stored. A
*ticket* is a signed, expiring, read-only pass for one session. A *signed link* opens
one file until it expires. Signatures are HMAC-SHA256 (RFC 2104) under a subkey per
purpose, truncated to 128 bits; each carries the id of the key that made it, so keys can
rotate: the first signs, all verify. Times are whole Unix seconds of the database's
clock.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tryon.protocol.credentials import TOKEN_PATTERN
from tryon.protocol.numbers import whole_number
from tryon.protocol.paths import FILES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def new_token() -> str:
    """Return a token for a client that sent none: 256 random bits, 43 characters."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """Return the hash that the database keeps of a token, 64 hex digits.

    Plain SHA-256 is enough for a secret of 128 random bits.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def same_owner(given: str | None, owner: str) -> bool:
    """Return whether two hashes of tokens are the same, in constant time.

    A client without a token (None) owns nothing.
    """
    return given is not None and hmac.compare_digest(given.encode(), owner.encode())


def valid_token(token: str) -> bool:
    """Return whether the text has the form of a client token."""
    return TOKEN_PATTERN.fullmatch(token) is not None


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One of the keys of ``TRYON_SECRET_KEY``; ``key_id`` tells nothing about it."""

    key_id: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: str) -> SecretKey:
        """Return the key of a secret as the setting has it."""
        raw = secret.encode()
        return cls(hashlib.sha256(b"tryon.v1.key-id." + raw).hexdigest()[:8], raw)

    def subkey(self, purpose: str) -> bytes:
        """Return the 32 bytes that serve one purpose alone."""
        return hmac.digest(self.secret, b"tryon.v1." + purpose.encode(), "sha256")


class Signer:
    """Signatures and their checks. ``secret_keys``: the first signs, all verify."""

    __slots__ = ("_address", "_gone", "_keys", "_purposes", "_receipt")

    def __init__(self, secret_keys: Sequence[str]) -> None:
        if not secret_keys:
            raise ValueError("at least one secret key is needed")
        keys = [SecretKey.of(secret) for secret in secret_keys]
        self._keys = tuple(keys)
        self._purposes = {purpose: {key.key_id: key.subkey(purpose) for key in keys} for purpose in ("ticket", "file")}
        self._address = keys[0].subkey("address")
        self._gone = tuple(key.subkey("gone") for key in keys)
        self._receipt = tuple((key.key_id, key.subkey("receipt")) for key in keys)

    def __repr__(self) -> str:
        return f"<Signer keys={[key.key_id for key in self._keys]}>"

    def _sign(self, purpose: str, subject: str, expires: int) -> tuple[str, str]:
        key_id = self._keys[0].key_id
        return key_id, self._mac(self._purposes[purpose][key_id], subject, expires)

    @staticmethod
    def _mac(key: bytes, subject: str, expires: int) -> str:
        return _encode(hmac.digest(key, f"{expires}.{subject}".encode(), "sha256")[:16])

    def _valid(self, purpose: str, subject: str, expires: str, key_id: str, signature: str, now: float) -> int | None:
        """Return the expiry of a valid signature, else None, in constant time."""
        key, end = self._purposes[purpose].get(key_id), whole_number(expires)
        if key is None or end is None:
            return None
        if not hmac.compare_digest(self._mac(key, subject, end).encode(), signature.encode()):
            return None
        return end if now < end else None

    def ticket(self, session_id: str, *, expires: int) -> str:
        """Return a read-only pass for one session until ``expires``; URL-safe."""
        key_id, signature = self._sign("ticket", session_id, expires)
        return f"{key_id}.{expires}.{signature}"

    def check_ticket(self, session_id: str, ticket: str, *, now: float) -> int | None:
        """Return when the ticket ends, in Unix seconds.

        None if it is forged, expired or of another session.
        """
        parts = ticket.split(".")
        if len(parts) != 3:
            return None
        key_id, expires, signature = parts
        return self._valid("ticket", session_id, expires, key_id, signature, now)

    def link(self, file_key: str, *, expires: int) -> str:
        """Return the path and query that open one file until ``expires``."""
        key_id, signature = self._sign("file", file_key, expires)
        return f"{FILES}/{file_key}?expires={expires}&key={key_id}&signature={signature}"  # all of it URL-safe

    def check_link(self, file_key: str, *, expires: str, key_id: str, signature: str, now: float) -> int | None:
        """Return when the link ends, in Unix seconds; None if forged or expired."""
        return self._valid("file", file_key, expires, key_id, signature, now)

    def tombstone_hash(self, session_id: str) -> str:
        """Return the hash that the tombstone of an erased session keeps of its id."""
        return self.tombstone_hashes(session_id)[0]

    def tombstone_hashes(self, session_id: str) -> tuple[str, ...]:
        """Return a tombstone's hashes under every key, the signing one first.

        While keys rotate, another process may sign with another key.
        """
        return tuple(hmac.digest(key, session_id.encode(), "sha256").hex() for key in self._gone)

    def address_hash(self, address: str) -> str:
        """Return what the database keeps of a client's address, 32 hex digits.

        A keyed hash: addresses are so few that any other could be tried out. After the
        signing key has changed an address has another one.
        """
        return hmac.digest(self._address, address.encode(), "sha256").hex()[:32]

    def subject_hash(self, subject: str) -> str:
        """Return what a quota is counted under, 32 hex digits."""
        return hmac.digest(self._address, f"quota.{subject}".encode(), "sha256").hex()[:32]

    def sign_receipt(self, body: bytes) -> tuple[str, str]:
        """Return the key's id and the Ed25519 signature (RFC 8032) of a receipt.

        Anyone can check it with :meth:`receipt_keys`, without the secret.
        """
        key_id, seed = self._receipt[0]
        return key_id, _encode(_receipt_key(seed).sign(body))

    def receipt_keys(self) -> list[tuple[str, str]]:
        """Return the id and the public key of each key, the signing one first.

        A public key is 32 bytes in base64url.
        """
        return [(key_id, _encode(_receipt_key(seed).public_key().public_bytes_raw())) for key_id, seed in self._receipt]


def _receipt_key(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,  # 4 MB that most processes don't need
    )

    return Ed25519PrivateKey.from_private_bytes(seed)
