"""Settings of the integrator's own users: docs/users.md."""

from __future__ import annotations

from dataclasses import dataclass

from server.config import issuers, parsing
from server.config.plans import ANONYMOUS, DEFAULT, RESERVED, PlanSetting, plans
from server.config.rows import setting


@dataclass(frozen=True, kw_only=True)  # without slots: a class takes them of one base only
class UserSettings:
    """The rows of the table that are about users."""

    jwt_issuer: tuple[str, ...] = setting(
        (),
        "Issuer of the JWTs of your own users, exactly as their `iss` has it; several, separated by commas: docs/users.md.",
        issuers.issuers,
        shown="none",
    )
    jwt_audience: tuple[str, ...] = setting(
        (),
        "Audience that a JWT must name in `aud`; of several, separated by commas, one is enough. "
        "Must be set where there is an issuer.",
        parsing.words,
        shown="none",
    )
    jwt_jwks_url: tuple[str, ...] = setting(
        (),
        "Address of the issuer's keys (JWK Set); several, separated by commas, in the order of the issuers.",
        issuers.issuers,
        shown="that of the issuer's /.well-known/openid-configuration, else /.well-known/jwks.json",
    )
    jwt_scope: str | None = setting(None, "Scope that every JWT must have.", issuers.scope, shown="none")
    jwt_algorithms: tuple[str, ...] = setting(
        ("RS256", "PS256", "ES256", "EdDSA"),
        "Signatures of JWTs that are accepted.",
        issuers.algorithms,
        shown="RS256,PS256,ES256,EdDSA",
    )
    owner_key: str | None = setting(
        None,
        "Key of at least 32 bytes that makes an owner's id of a user's issuer and subject; a new key makes all users strangers.",
        issuers.owner_key,
        shown="made of the first TRYON_SECRET_KEY",
    )
    anonymous: bool = setting(
        True, "Whether clients without a JWT may upload: on or off.", issuers.on_or_off, shown="on"
    )
    quotas: tuple[PlanSetting, ...] = setting(
        (),
        "Plans with their limits: JSON, or the path of a TOML file: docs/quotas.md.",
        plans,
        shown="none",
    )
    quota_claim: str | None = setting(
        None, "Claim of a JWT whose value names a plan of TRYON_QUOTAS.", parsing.text, shown="none"
    )
    usage_webhook_url: str | None = setting(
        None,
        "Address that is told what each session has used: docs/usage.md. Signed by TRYON_WEBHOOK_SECRET.",
        parsing.webhook_url,
        shown="none",
    )
    usage_days: float = setting(
        7.0,
        "How long a usage event is offered to an address that does not accept it.",
        parsing.number(float, 0.01, 366),
        unit="days",
    )


def find_fault(config: UserSettings) -> str | None:
    """Return what is wrong, in one line that names the setting; None: nothing."""
    if config.jwt_issuer and not config.jwt_audience:
        return "TRYON_JWT_AUDIENCE must be set where there is TRYON_JWT_ISSUER: without it any service's token would do"
    if len(config.jwt_jwks_url) > len(config.jwt_issuer):
        return "TRYON_JWT_JWKS_URL has more addresses than TRYON_JWT_ISSUER has issuers"
    if not config.anonymous and not config.jwt_issuer:
        return "TRYON_ANONYMOUS=off needs TRYON_JWT_ISSUER: else no client could upload"
    if config.quota_claim is not None and not config.quotas:
        return "TRYON_QUOTA_CLAIM needs TRYON_QUOTAS: without plans it limits no client"
    for plan in config.quotas:
        if plan.name not in RESERVED and plan.scope is None and config.quota_claim is None:
            return (
                f"TRYON_QUOTAS: no client can have plan {plan.name!r}: it needs a scope, TRYON_QUOTA_CLAIM, "
                f"or one of the names {' and '.join(RESERVED)}"
            )
    return None


def callers_without_limit(config: UserSettings) -> str | None:
    """Return in one line which callers the plans leave without a limit; None: none.

    It may be meant: a plan `default` without limits says so.
    """
    names = {plan.name for plan in config.quotas}
    if not names or DEFAULT in names:
        return None
    callers = []
    if config.jwt_issuer:
        callers.append("users whose JWT leads to no other plan")
    if config.anonymous and ANONYMOUS not in names:
        callers.append("clients without a JWT")
    return f"TRYON_QUOTAS does not limit {' and '.join(callers)}: it has no plan {DEFAULT}" if callers else None
