"""An issuer of users' tokens: a small OpenID Connect server with keys that rotate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "tryon"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_RSA: list[rsa.RSAPrivateKey] = []
"""RSA keys that were made, for tests to share: each takes 50 ms and more."""


def private_key(algorithm: str, number: int = 0) -> PrivateKey:
    """Return a key for an algorithm; RSA keys of the same number are the same."""
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    while len(_RSA) <= number:
        _RSA.append(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return _RSA[number]


def jwk_of(key: PrivateKey, algorithm: str, kid: str | None) -> dict[str, Any]:
    """Return the public half of a key as a JWK."""
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "use": "sig", "alg": algorithm} | ({"kid": kid} if kid is not None else {})


@dataclass
class Issuer:
    """A server on loopback: its discovery document, its keys, and tokens of its users.

    ``documents``: what it answers by path, JSON or whole answers as bytes; ``asked``:
    the paths of all requests. ``awaited``: while set to an event, requests wait for it.
    """

    port: int = 0
    documents: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    keys: dict[str, tuple[PrivateKey, str]] = field(default_factory=dict)
    awaited: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of a server that accepts its users."""
        return {"jwt_issuer": (self.url,), "jwt_audience": (AUDIENCE,)}

    def rotate(self, kid: str, algorithm: str = "RS256", *, keep: bool = False) -> None:
        """Publish another key, in place of the others or (``keep``) beside them."""
        key = private_key(algorithm, len(self.keys))
        self.keys[kid] = key, algorithm
        published = self.documents["/keys"]["keys"] if keep else []
        self.documents["/keys"] = {"keys": [*published, jwk_of(key, algorithm, kid)]}

    def claims(self, subject: str = "user-1", **more: Any) -> dict[str, Any]:
        """Return the claims of a token that is good for five minutes."""
        now = int(time.time())
        return {"iss": self.url, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + 300, **more}

    def token(self, subject: str = "user-1", *, kid: str | None = None, **more: Any) -> str:
        """Return a user's token, signed with the newest key or that of ``kid``."""
        kid = kid or list(self.keys)[-1]
        key, algorithm = self.keys[kid]
        claims = {name: value for name, value in self.claims(subject, **more).items() if value is not None}
        return jwt.encode(claims, key, algorithm, headers={"kid": kid})

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ")[1]
            self.asked.append(path)
            if self.awaited is not None:
                await self.awaited.wait()
            document = self.documents.get(path)
            if isinstance(document, bytes):
                writer.write(document)
            else:
                body = json.dumps(document).encode()
                status = "404 Not Found" if document is None else "200 OK"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def issuing(algorithm: str = "RS256") -> AsyncIterator[Issuer]:
    """Run an issuer with one key, ``first``, for the length of the block."""
    issuer = Issuer()
    server = await asyncio.start_server(issuer.answer, "127.0.0.1", 0)
    issuer.port = server.sockets[0].getsockname()[1]
    issuer.documents["/.well-known/openid-configuration"] = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
    issuer.rotate("first", algorithm)
    try:
        yield issuer
    finally:
        server.close()
