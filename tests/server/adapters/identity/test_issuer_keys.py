"""Keys of an issuer: found, rotated, kept in an outage, never asked for in a flood."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.adapters.identity.fetching import MAX_BYTES, JsonFetcher
from server.adapters.identity.issuer_keys import FRESH_SECONDS, OLD_SECONDS, PAUSE_SECONDS, STALE_SECONDS, IssuerKeys
from testkit.clocks import ManualClock
from testkit.issuers import Issuer, issuing
from testkit.running import until
from tryon.protocol.errors import TryOnError, Unauthorized, Unavailable

KEYS = "/keys"
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an issuer."""
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def keys(issuer: Issuer, clock: ManualClock) -> AsyncIterator[IssuerKeys]:
    """Return the keys of the issuer, none of them fetched yet."""
    fetcher = JsonFetcher(seconds=30)
    keys = IssuerKeys(issuer.url, None, fetcher=fetcher, clock=clock)
    yield keys
    await keys.close()
    await fetcher.close()


async def test_keys_are_discovered_and_fetched_once(keys: IssuerKeys, issuer: Issuer) -> None:
    """A hundred tokens at once cost one fetch, and those after them none."""
    await asyncio.gather(*(keys.find("first", "RS256") for _ in range(100)))
    await keys.find("first", "RS256")
    assert issuer.asked == [DISCOVERY, KEYS]


async def test_keys_are_found_beside_an_issuer_without_discovery(keys: IssuerKeys, issuer: Issuer) -> None:
    """They are at the address that is usual then."""
    del issuer.documents[DISCOVERY]
    issuer.documents["/.well-known/jwks.json"] = issuer.documents.pop(KEYS)
    await keys.find("first", "RS256")


async def test_rotated_key_is_fetched_at_once(keys: IssuerKeys, issuer: Issuer, clock: ManualClock) -> None:
    """An unknown key id asks the issuer, if the last fetch is long enough ago."""
    await keys.find("first", "RS256")
    issuer.rotate("second")
    clock.advance(PAUSE_SECONDS)
    await keys.find("second", "RS256")
    clock.advance(PAUSE_SECONDS)
    with pytest.raises(Unauthorized):
        await keys.find("first", "RS256")  # withdrawn


async def test_forged_key_ids_do_not_flood_the_issuer(keys: IssuerKeys, issuer: Issuer, clock: ManualClock) -> None:
    """One of a thousand is asked for; a fresh key meanwhile is unavailable."""
    await keys.find("first", "RS256")
    clock.advance(PAUSE_SECONDS)
    asked = len(issuer.asked)
    refusals = await asyncio.gather(*(keys.find(f"forged-{n}", "RS256") for n in range(1000)), return_exceptions=True)
    assert len(issuer.asked) == asked + 2
    assert isinstance(refusals[0], Unauthorized)
    issuer.rotate("second", keep=True)
    clock.advance(PAUSE_SECONDS - 3)
    with pytest.raises(Unavailable) as refused:
        await keys.find("second", "RS256")
    assert refused.value.retry_after == pytest.approx(3)
    clock.advance(3)
    await keys.find("second", "RS256")


async def test_fetch_that_began_before_the_token_proves_nothing(
    keys: IssuerKeys, issuer: Issuer, clock: ManualClock
) -> None:
    """A key may have been published after the fetch read the set."""
    issuer.awaited = asyncio.Event()
    early = asyncio.create_task(keys.find("first", "RS256"))
    await until(lambda: issuer.asked)
    late = asyncio.create_task(keys.find("unknown", "RS256"))
    await asyncio.sleep(0)
    issuer.awaited.set()
    await early
    with pytest.raises(Unavailable):
        await late


async def test_known_keys_outlive_an_outage_for_a_day(keys: IssuerKeys, issuer: Issuer, clock: ManualClock) -> None:
    """An unknown key cannot be judged meanwhile."""
    await keys.find("first", "RS256")
    issuer.documents[KEYS] = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"
    clock.advance(STALE_SECONDS - 60)
    await keys.find("first", "RS256")
    clock.advance(PAUSE_SECONDS)
    with pytest.raises(Unavailable):
        await keys.find("second", "RS256")
    await keys.find("first", "RS256")
    clock.advance(60)
    with pytest.raises(Unavailable):
        await keys.find("first", "RS256")


async def test_withdrawn_key_ends_with_the_next_renewal(keys: IssuerKeys, issuer: Issuer, clock: ManualClock) -> None:
    """Keys are renewed in the background: a token that finds them old does not wait."""
    await keys.find("first", "RS256")
    issuer.rotate("second")
    clock.advance(FRESH_SECONDS)
    await keys.find("first", "RS256")
    await until(lambda: issuer.asked == [DISCOVERY, KEYS] * 2)
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "issuer-keys"))
    clock.advance(PAUSE_SECONDS)
    with pytest.raises(Unauthorized):
        await keys.find("first", "RS256")


async def test_withdrawn_key_ends_at_once_after_a_rest(keys: IssuerKeys, issuer: Issuer, clock: ManualClock) -> None:
    """No token came for a while, so the first one waits for the issuer's keys."""
    await keys.find("first", "RS256")
    issuer.rotate("second")
    clock.advance(OLD_SECONDS)
    refusals = await asyncio.gather(*(keys.find("first", "RS256") for _ in range(3)), return_exceptions=True)
    assert [type(refusal) for refusal in refusals] == [Unauthorized] * 3
    assert issuer.asked == [DISCOVERY, KEYS] * 2


async def test_outage_holds_up_one_token_after_a_rest(keys: IssuerKeys, issuer: Issuer, clock: ManualClock) -> None:
    """The next ones go on with the known keys while the issuer is asked again."""
    await keys.find("first", "RS256")
    issuer.documents[KEYS] = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"
    clock.advance(OLD_SECONDS)
    await keys.find("first", "RS256")
    assert issuer.asked == [DISCOVERY, KEYS] * 2
    clock.advance(PAUSE_SECONDS)
    issuer.awaited = asyncio.Event()
    async with asyncio.timeout(5):  # the issuer does not answer before the event is set
        await keys.find("first", "RS256")
        await until(lambda: issuer.asked == [DISCOVERY, KEYS] * 2 + [DISCOVERY])
    issuer.awaited.set()


def _answer(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@pytest.mark.parametrize(
    "document",
    [
        _answer(b"no JSON"),
        _answer(b"[" * 100_000),
        _answer(b"\xff\xfe"),
        _answer(b'{"keys": "many"}'),
        _answer(b"[]"),
        _answer(b"null"),
        _answer(b" " * (MAX_BYTES + 1)),
        _answer(b"", "302 Found", "Location: /elsewhere\r\n"),
        _answer(b"{}", "200 OK", "Content-Encoding: gzip\r\n"),
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{",
        b"",
    ],
)
async def test_odd_answer_is_an_outage(keys: IssuerKeys, issuer: Issuer, document: bytes) -> None:
    """It raises nothing else, and is not followed elsewhere."""
    issuer.documents[KEYS] = document
    with pytest.raises(Unavailable):
        await keys.find("first", "RS256")
    assert "/elsewhere" not in issuer.asked


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://other.example", "jwks_uri": "https://other.example/keys"},
        {"jwks_uri": 7},
        {"issuer": 7},
        [],
    ],
)
async def test_odd_discovery_is_an_outage(keys: IssuerKeys, issuer: Issuer, discovery: Any) -> None:
    """An issuer speaks for itself alone."""
    issuer.documents[DISCOVERY] = discovery
    with pytest.raises(Unavailable):
        await keys.find("first", "RS256")


async def test_plain_http_to_another_machine_is_not_asked(keys: IssuerKeys, issuer: Issuer) -> None:
    """The keys would be whatever the network says."""
    issuer.documents[DISCOVERY] = {"issuer": issuer.url, "jwks_uri": "http://login.shop.example/keys"}
    with pytest.raises(Unavailable):
        await keys.find("first", "RS256")


@pytest.mark.parametrize(
    "odd",
    [
        None,
        7,
        {},
        {"kty": "RSA", "kid": ["first"]},
        {"kty": "RSA", "kid": "x" * 10_000},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "first", "alg": "RS256"},
        {"kty": "RSA", "kid": "first", "n": 5, "e": {}},
        {"kty": "RSA", "kid": "first", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "kid": "first", "n": "_" * 100_000, "e": "AQAB"},
        {"kty": ["RSA"], "kid": "first"},
        {"kty": "EC", "crv": "P-256", "kid": "first", "x": "", "y": ""},
        {"kty": "RSA", "kid": "first", "use": "enc", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "kid": "first", "key_ops": 5},
    ],
)
async def test_odd_key_is_left_out_and_others_verify(keys: IssuerKeys, issuer: Issuer, odd: Any) -> None:
    """Each key stands for itself."""
    issuer.documents[KEYS]["keys"] = [odd, *({**each, "kid": "good"} for each in issuer.documents[KEYS]["keys"])]
    await keys.find("good", "RS256")
    for algorithm in ("RS256", "ES256", "EdDSA"):
        with pytest.raises(TryOnError):
            await keys.find("first", algorithm)
    json.dumps(odd)  # it can be served


async def test_token_without_a_key_id_has_the_only_key(keys: IssuerKeys, issuer: Issuer, clock: ManualClock) -> None:
    """Of two that fit, none is tried."""
    await keys.find(None, "RS256")
    issuer.rotate("second", keep=True)
    clock.advance(FRESH_SECONDS)
    await keys.find(None, "RS256")
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "issuer-keys"))
    with pytest.raises(TryOnError):
        await keys.find(None, "RS256")
