"""Tokens, tickets and signed links: what opens, and that nothing near it does."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.session import new_session_id
from server.domain.tokens import Signer, new_token, token_hash, valid_token

OLD, NEW = "old-" * 10, "new-" * 10
ID = new_session_id()
KEY = f"outputs/{ID}-1.jpg"


@pytest.mark.parametrize("token", ["a" * 22, "A-_9" * 32, "-_" * 21 + "0"])
def test_tokens_of_enough_randomness_are_taken(token: str) -> None:
    assert valid_token(token)


@pytest.mark.parametrize(
    "token", ["", "a" * 21, "a" * 129, "a" * 22 + "\n", " " + "a" * 22, "a" * 21 + "é", "a" * 22 + "=", "١" * 22]
)
def test_anything_else_is_no_token(token: str) -> None:
    assert not valid_token(token)


def test_a_new_token_is_valid_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(valid_token(token) and len(token) == 43 for token in tokens)


def test_a_hash_tells_nothing_of_its_token() -> None:
    assert len(token_hash("a" * 22)) == 64
    assert token_hash("a" * 22) != token_hash("a" * 23)
    assert "a" * 22 not in token_hash("a" * 22)


def test_a_ticket_opens_its_session_until_it_ends() -> None:
    signer = Signer([NEW])
    ticket = signer.ticket(ID, expires=1000)
    assert signer.check_ticket(ID, ticket, now=0) == 1000
    assert signer.check_ticket(ID, ticket, now=999.9) == 1000
    assert signer.check_ticket(ID, ticket, now=1000) is None
    assert signer.check_ticket(new_session_id(), ticket, now=0) is None


def test_a_link_opens_its_file_until_it_ends() -> None:
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


def test_a_signature_serves_one_purpose() -> None:
    signer = Signer([NEW])
    key_id, expires, signature = signer.ticket(KEY, expires=1000).split(".")
    assert signer.check_ticket(KEY, f"{key_id}.{expires}.{signature}", now=0) == 1000
    assert signer.check_link(KEY, expires=expires, key_id=key_id, signature=signature, now=0) is None


def test_the_first_key_signs_and_all_verify() -> None:
    ticket = Signer([OLD]).ticket(ID, expires=1000)
    assert Signer([NEW, OLD]).check_ticket(ID, ticket, now=0) == 1000
    assert Signer([NEW]).check_ticket(ID, ticket, now=0) is None
    assert Signer([NEW, OLD]).ticket(ID, expires=1000) == Signer([NEW]).ticket(ID, expires=1000)


def test_an_erased_id_is_recognized_under_every_key() -> None:
    assert Signer([OLD]).gone_hash(ID) in Signer([NEW, OLD]).gone_hashes(ID)
    assert ID not in Signer([OLD]).gone_hash(ID)


def test_no_key_shows_in_a_repr() -> None:
    assert OLD not in repr(Signer([OLD]))
    with pytest.raises(ValueError, match="key"):
        Signer([])


TICKET = Signer([NEW]).ticket(ID, expires=10**10)


@given(st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_no_text_opens_and_none_raises(ticket: str) -> None:
    assert Signer([NEW]).check_ticket(ID, ticket, now=0) is None


@given(at=st.integers(0, len(TICKET) - 1), character=st.characters(min_codepoint=33, max_codepoint=126))
def test_a_ticket_with_any_character_changed_is_forged(at: int, character: str) -> None:
    forged = TICKET[:at] + character + TICKET[at + 1 :]
    assert (Signer([NEW]).check_ticket(ID, forged, now=0) is None) == (forged != TICKET)
