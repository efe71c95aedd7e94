"""Users' tokens: accepted for the right reasons, and refused without an error."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.adapters.identity.verifier import LEEWAY_SECONDS, MAX_TOKEN_BYTES, TokenVerifier
from server.domain.identities import OwnerIds
from server.system.clock import SystemClock
from testkit.issuers import AUDIENCE, Issuer, issuing, private_key
from tryon.protocol.errors import Forbidden, TryOnError, Unauthorized

OWNER_IDS = OwnerIds(b"key")
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an issuer."""
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
async def verifier(issuer: Issuer) -> AsyncIterator[TokenVerifier]:
    """Return the judge of its tokens."""
    verifier = make_verifier(issuer)
    yield verifier
    await verifier.close()


def make_verifier(*issuers: Issuer, scope: str | None = None) -> TokenVerifier:
    return TokenVerifier(
        issuers=[issuer.url for issuer in issuers],
        key_urls=(),
        audiences=("other", AUDIENCE),
        algorithms=ALGORITHMS,
        scope=scope,
        owner_ids=OWNER_IDS,
        clock=SystemClock(),
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_token_of_each_algorithm_names_its_owner(algorithm: str) -> None:
    """The owner is a keyed hash of issuer and subject, the same for every algorithm."""
    async with issuing(algorithm) as issuer:
        verifier = make_verifier(issuer)
        identity = await verifier.verify(issuer.token("ann", scope="a b", scp=["c", 5]))
        await verifier.close()
    assert identity.owner == OWNER_IDS.of(issuer.url, "ann")
    assert not identity.anonymous
    assert identity.scopes == {"a", "b", "c"}
    assert "ann" not in repr(identity)


async def test_same_subject_of_two_issuers_is_two_owners() -> None:
    """And both are accepted."""
    async with issuing() as one, issuing() as two:
        verifier = make_verifier(one, two)
        owners = {(await verifier.verify(issuer.token("ann"))).owner for issuer in (one, two)}
        await verifier.close()
    assert len(owners) == 2


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": [1]},
        {"exp": time.time() - LEEWAY_SECONDS - 5},
        {"nbf": time.time() + 86400},
        {"iat": time.time() + 86400},
        {"aud": "elsewhere"},
        {"aud": None},
        {"aud": {"a": 1}},
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 5},
        {"sub": "x" * 1001},
        {"sub": "\ud800"},
    ],
)
async def test_token_with_bad_claims_is_invalid(
    verifier: TokenVerifier, issuer: Issuer, claims: dict[str, Any]
) -> None:
    """Each claim alone is enough for a refusal, and none for an error."""
    claims = {name: value for name, value in (issuer.claims() | claims).items() if value is not None}
    key, _ = issuer.keys["first"]
    body = json.dumps(claims).encode()
    token = jwt.api_jws.encode(body, key, "RS256", headers={"kid": "first"})
    with pytest.raises(Unauthorized):
        await verifier.verify(token)


async def test_clocks_may_differ_by_the_leeway(verifier: TokenVerifier, issuer: Issuer) -> None:
    """A token that ended a moment ago still counts."""
    await verifier.verify(issuer.token(exp=int(time.time()) - LEEWAY_SECONDS // 2))


def _forged(issuer: Issuer, **header: Any) -> str:
    key, _ = issuer.keys["first"]
    return jwt.encode(issuer.claims(), key, "RS256", headers={"kid": "first"} | header)


async def test_forged_signatures_are_invalid(verifier: TokenVerifier, issuer: Issuer) -> None:
    """Another key, no signature, the public key as a secret, and a changed body."""
    claims = issuer.claims()
    public = issuer.documents["/keys"]["keys"][0]
    head, body, signature = issuer.token().split(".")
    other = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "eve"}).encode()).rstrip(b"=").decode()
    tokens = [
        jwt.encode(claims, private_key("RS256", 7), "RS256", headers={"kid": "first"}),
        jwt.encode(claims, "", "none"),
        jwt.encode(claims, json.dumps(public) + "#" * 32, "HS256", headers={"kid": "first"}),
        jwt.encode(claims, private_key("RS256", 0), "RS384", headers={"kid": "first"}),
        f"{head}.{other}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.{signature}",
        _forged(issuer, crit=["exp"], exp=1),
        _forged(issuer, jwk=public, kid="mine"),
        "x" * MAX_TOKEN_BYTES + ".a.b",
        "é.é.é",
    ]
    for token in tokens:
        with pytest.raises(TryOnError) as refused:
            await verifier.verify(token)
        assert refused.value.status in (401, 503), token
        assert "user-1" not in str(refused.value)


async def test_token_without_the_scope_is_forbidden(issuer: Issuer) -> None:
    """A token that has it among others is accepted."""
    verifier = make_verifier(issuer, scope="tryon")
    await verifier.verify(issuer.token(scope="profile tryon"))
    with pytest.raises(Forbidden):
        await verifier.verify(issuer.token(scope="tryon-admin"))
    await verifier.close()


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]), _JSON | st.just("RS256")),
    claims=st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti"]), _JSON),
)
async def test_nonsense_is_refused_without_an_error(header: dict[str, Any], claims: dict[str, Any]) -> None:
    """Anything between dots is a refusal, whatever stands in it."""
    verifier = TokenVerifier(
        issuers=["http://127.0.0.1:9"],
        key_urls=(),
        audiences=(AUDIENCE,),
        algorithms=ALGORITHMS,
        scope=None,
        owner_ids=OWNER_IDS,
        clock=SystemClock(),
    )
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in (header, claims)]
    with pytest.raises(TryOnError):
        await verifier.verify(f"{parts[0]}.{parts[1]}.c2ln")
    await verifier.close()
