"""Tokens, tickets and signed links: they open their own target and no other."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.tokens import Signer, new_token, token_hash, valid_token
from testkit.values import new_session_id

OLD, NEW = "old-" * 10, "new-" * 10
ID = new_session_id()
KEY = f"outputs/{ID}-1.jpg"


@pytest.mark.parametrize("token", ["a" * 22, "A-_9" * 32, "-_" * 21 + "0"])
def test_token_of_enough_bits_is_valid(token: str) -> None:
    """22 to 128 characters of the URL-safe alphabet carry at least 128 bits."""
    assert valid_token(token)


@pytest.mark.parametrize(
    "token", ["", "a" * 21, "a" * 129, "a" * 22 + "\n", " " + "a" * 22, "a" * 21 + "é", "a" * 22 + "=", "١" * 22]
)
def test_other_text_is_no_token(token: str) -> None:
    """Too short, too long, white space, padding and other alphabets are refused."""
    assert not valid_token(token)


def test_new_token_is_valid_and_unique() -> None:
    """A token made by the server has 256 random bits."""
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(valid_token(token) and len(token) == 43 for token in tokens)


def test_token_hash_hides_its_token() -> None:
    """Different tokens have different hashes, and a hash does not contain its token."""
    assert len(token_hash("a" * 22)) == 64
    assert token_hash("a" * 22) != token_hash("a" * 23)
    assert "a" * 22 not in token_hash("a" * 22)


def test_ticket_opens_its_session_until_expiry() -> None:
    """It does not open another session, nor its own at the second of its expiry."""
    signer = Signer([NEW])
    ticket = signer.ticket(ID, expires=1000)
    assert signer.check_ticket(ID, ticket, now=0) == 1000
    assert signer.check_ticket(ID, ticket, now=999.9) == 1000
    assert signer.check_ticket(ID, ticket, now=1000) is None
    assert signer.check_ticket(new_session_id(), ticket, now=0) is None


def test_link_opens_its_file_until_expiry() -> None:
    """Any changed part of the link closes it."""
    signer = Signer([NEW])
    query = {name: values[0] for name, values in parse_qs(urlsplit(signer.link(KEY, expires=1000)).query).items()}

    def check(key: str = KEY, now: float = 0, **changed: str) -> int | None:
        shown = {"expires": query["expires"], "key_id": query["key"], "signature": query["signature"]} | changed
        return signer.check_link(key, now=now, **shown)

    assert check() == 1000
    assert check(now=1000) is None
    assert check(key=KEY.replace("-1", "-2")) is None
    assert check(expires="2000") is None
    assert check(key_id="00000000") is None
    assert check(signature="") is None


def test_signature_serves_one_purpose() -> None:
    """A ticket's signature does not open a file."""
    signer = Signer([NEW])
    key_id, expires, signature = signer.ticket(KEY, expires=1000).split(".")
    assert signer.check_ticket(KEY, f"{key_id}.{expires}.{signature}", now=0) == 1000
    assert signer.check_link(KEY, expires=expires, key_id=key_id, signature=signature, now=0) is None


def test_first_key_signs_and_all_verify() -> None:
    """So keys can rotate while old tickets are in use."""
    ticket = Signer([OLD]).ticket(ID, expires=1000)
    assert Signer([NEW, OLD]).check_ticket(ID, ticket, now=0) == 1000
    assert Signer([NEW]).check_ticket(ID, ticket, now=0) is None
    assert Signer([NEW, OLD]).ticket(ID, expires=1000) == Signer([NEW]).ticket(ID, expires=1000)


def test_tombstone_is_recognized_under_every_key() -> None:
    """A process that signs with a newer key still finds older tombstones."""
    assert Signer([OLD]).tombstone_hash(ID) in Signer([NEW, OLD]).tombstone_hashes(ID)
    assert ID not in Signer([OLD]).tombstone_hash(ID)


def test_signer_repr_hides_keys() -> None:
    """A secret never reaches a log line; a signer without keys is refused."""
    assert OLD not in repr(Signer([OLD]))
    with pytest.raises(ValueError, match="key"):
        Signer([])


TICKET = Signer([NEW]).ticket(ID, expires=10**10)


@given(st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_arbitrary_text_is_no_ticket(ticket: str) -> None:
    """No text opens a session, and none raises."""
    assert Signer([NEW]).check_ticket(ID, ticket, now=0) is None


@given(at=st.integers(0, len(TICKET) - 1), character=st.characters(min_codepoint=33, max_codepoint=126))
def test_ticket_with_changed_character_is_forged(at: int, character: str) -> None:
    """Every character of a ticket counts."""
    forged = TICKET[:at] + character + TICKET[at + 1 :]
    assert (Signer([NEW]).check_ticket(ID, forged, now=0) is None) == (forged != TICKET)
