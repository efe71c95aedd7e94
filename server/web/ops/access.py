"""Who may see the operator's page: a bearer token, or the cookie of a sign-in.

The cookie is signed with the token itself: it ends when the token is taken out of
``TRYON_OPS_TOKEN``, and every process of every machine knows it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from server.adapters.redis.limits import RedisLimiter
from server.config.authorities import parse_origin
from server.config.settings import Config
from server.system.clock import Clock
from server.web.common.credentials import client_address, counted
from server.web.common.fields import field as header
from server.web.common.fields import fields
from server.web.common.forwarding import secure
from server.web.common.origins import own_origin
from tryon.protocol.errors import BadRequest, RateLimited, Unauthorized
from tryon.protocol.numbers import whole_number

log = logging.getLogger("tryon.operator")

COOKIE: Final = "tryon_ops"
COOKIE_SECONDS: Final = 12 * 3600
"""Life of a sign-in."""

NAME_CHARACTERS: Final = 8
"""Characters of the hash of a token that stand for its operator."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator that was let in. ``until``: the end of the sign-in, Unix seconds."""

    name: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    digest: bytes = field(repr=False)
    token: bytes = field(repr=False)


class OperatorAccess:
    """The rule of one process. ``limiter`` counts wrong tokens by address."""

    def __init__(self, config: Config, limiter: RedisLimiter, clock: Clock) -> None:
        self._config = config
        self._limiter = limiter
        self._clock = clock
        self._known = _known(config.ops_tokens)

    def __repr__(self) -> str:
        return f"<OperatorAccess operators={[each.name for each in self._known]}>"

    async def operator_of(self, request: Request) -> Operator:
        """Return the operator that sent a request; one with a body of its own, too.

        Raises Unauthorized, RateLimited; and BadRequest for a call from another site.
        """
        scheme, _, token = (header(request.scope, b"authorization") or "").partition(" ")
        bearer = scheme.lower() == "bearer"
        if request.method not in ("GET", "HEAD"):
            self.check_site(request, may_be_silent=bearer)
        if bearer:
            return await self.sign_in(request, token.strip())
        operator = self._of_cookie(request.cookies.get(COOKIE, ""))
        if operator is None:
            raise Unauthorized("token_required", "This path needs an operator's token: TRYON_OPS_TOKEN.")
        return operator

    async def sign_in(self, request: Request, token: str) -> Operator:
        """Return the operator of a token. Raises Unauthorized, RateLimited."""
        digest = hashlib.sha256(token.encode()).digest()
        matching = [each for each in self._known if hmac.compare_digest(each.digest, digest)]
        if matching:  # whatever wrong tokens come from its address: they are too long to be found
            return Operator(matching[0].name)
        address = counted(client_address(request, self._config))
        verdict = await self._limiter.take(address)
        if verdict is not None and not verdict.allowed:
            raise RateLimited(limit="ops_tokens", retry_after=verdict.reset_seconds)
        log.warning("Operator's token refused - Client: %s", address)
        raise Unauthorized("invalid_token", "This is no operator's token.")

    def cookie(self, operator: Operator, request: Request) -> str:
        """Return the value of ``Set-Cookie`` that signs an operator in."""
        until = int(self._clock.wall()) + COOKIE_SECONDS
        known = next(each for each in self._known if each.name == operator.name)
        return self._attributes(f"{known.name}.{until}.{_sign(known, until)}", COOKIE_SECONDS, request)

    def no_cookie(self, request: Request) -> str:
        """Return the value of ``Set-Cookie`` that signs an operator out."""
        return self._attributes("", 0, request)

    def check_site(self, request: Request, *, may_be_silent: bool = False) -> None:
        """Raise BadRequest unless a page of this very origin sent the request.

        ``may_be_silent``: a program, which says nothing about it, is fine, too. The
        cookie alone is not enough: SameSite counts all ports of a host as one site.
        """
        site, origins = header(request.scope, b"sec-fetch-site"), fields(request.scope, b"origin")
        if site is not None:
            fine = site == "same-origin"
        elif origins:
            own = own_origin(request, self._config)
            fine = own is not None and [parse_origin(each) for each in origins] == [own]
        else:
            fine = may_be_silent
        if not fine:
            raise BadRequest("bad_request", "Another site sent this request.")

    def _of_cookie(self, text: str) -> Operator | None:
        name, _, rest = text.partition(".")
        expires, _, signature = rest.partition(".")
        until = whole_number(expires)
        if until is None or until <= self._clock.wall():
            return None
        for each in self._known:
            if each.name == name and hmac.compare_digest(_sign(each, until).encode(), signature.encode()):
                return Operator(name, until)
        return None

    def _attributes(self, value: str, seconds: int, request: Request) -> str:
        only_tls = "; Secure" if secure(request.scope, self._config.trusted_proxies) else ""
        return f"{COOKIE}={value}; Max-Age={seconds}; Path=/ops; HttpOnly; SameSite=Strict{only_tls}"


def _known(tokens: Sequence[str]) -> list[_Known]:
    digests = [(token.encode(), hashlib.sha256(token.encode())) for token in tokens]
    return [_Known(digest.hexdigest()[:NAME_CHARACTERS], digest.digest(), token) for token, digest in digests]


def _sign(known: _Known, until: int) -> str:
    return hmac.digest(known.token, f"tryon.ops.cookie.{known.name}.{until}".encode(), "sha256").hex()
