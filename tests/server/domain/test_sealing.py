"""Encryption of checkpoints."""

from __future__ import annotations

import pytest

from server.domain.sealing import Sealer
from server.domain.tokens import Signer

OLD, NEW = "old-" * 10, "new-" * 10
NONCE = bytes(range(12))


def test_sealed_text_opens_with_its_key_alone() -> None:
    """Any listed key opens, the first one seals; another one does not."""
    sealed = Sealer([OLD]).seal(b"secret", nonce=NONCE)
    assert b"secret" not in sealed.encode()
    assert Sealer([OLD]).unseal(sealed) == Sealer([NEW, OLD]).unseal(sealed) == b"secret"
    assert Sealer([NEW]).unseal(sealed) is None
    assert Sealer([NEW, OLD]).seal(b"secret", nonce=NONCE).split(".")[0] != sealed.split(".")[0]


@pytest.mark.parametrize("text", ["", ".", "abc", "{id}.", "{id}.AAAA", "{id}.???", "{id}.{short}", "{id}.{flipped}"])
def test_altered_text_opens_nothing(text: str) -> None:
    """A text that was cut, changed or never sealed gives None."""
    key_id, _, body = Sealer([OLD]).seal(b"secret", nonce=NONCE).partition(".")
    flipped = ("B" if body[20] != "B" else "C").join((body[:20], body[21:]))
    assert Sealer([OLD]).unseal(text.format(id=key_id, short=body[:-4], flipped=flipped)) is None


def test_sealing_key_is_no_other_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret stands in a representation, and the key's id is that of signatures."""
    assert OLD not in repr(Sealer([OLD])) and OLD not in repr(Signer([OLD]))
    assert Sealer([OLD]).seal(b"", nonce=NONCE).split(".")[0] == Signer([OLD]).ticket("x", expires=1).split(".")[0]
