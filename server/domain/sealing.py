"""Encryption of what the database keeps for a processor: its checkpoints.

AES-256-GCM (NIST SP 800-38D) under a subkey of the secret; each text carries the id of
the key that made it, so keys can rotate: the first encrypts, all decrypt. A copy of the
database alone does not tell where a photo went.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from server.domain.tokens import SecretKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES: Final = 12
"""The one length that AES-GCM takes as it is (section 5.2.1.1)."""


class Sealer:
    """Encrypts and decrypts. ``secret_keys``: the first encrypts, all decrypt."""

    __slots__ = ("_first", "_keys")

    def __init__(self, secret_keys: Sequence[str]) -> None:
        keys = [SecretKey.of(secret) for secret in secret_keys]
        self._first = keys[0].key_id
        self._keys = {key.key_id: key.subkey("checkpoint") for key in keys}

    def __repr__(self) -> str:
        return f"<Sealer keys={list(self._keys)}>"

    def seal(self, plain: bytes, *, nonce: bytes) -> str:
        """Return the encrypted text. ``nonce``: 12 random bytes, used this once."""
        sealed = nonce + _cipher(self._keys[self._first]).encrypt(nonce, plain, None)
        return f"{self._first}.{base64.urlsafe_b64encode(sealed).decode()}"

    def unseal(self, text: str) -> bytes | None:
        """Return what was encrypted; None: altered, or by a key that is gone."""
        from cryptography.exceptions import InvalidTag

        key_id, _, encoded = text.partition(".")
        if (key := self._keys.get(key_id)) is None:
            return None
        try:
            sealed = base64.b64decode(encoded, b"-_", validate=True)
            return _cipher(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (binascii.Error, InvalidTag, ValueError):
            return None


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 4 MB that most processes don't need

    return AESGCM(key)
