"""``TRYON_QUOTAS``, well and badly written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from server.config.plans import RESERVED
from server.config.settings import Config, ConfigError
from server.config.users import callers_without_limit
from server.domain import quotas


def load(text: str) -> Config:
    return Config.load({"TRYON_QUOTAS": text}, env_file=None)


def test_plans_come_from_json_or_a_toml_file(tmp_path: Path) -> None:
    """In the order in which they stand."""
    (tmp_path / "plans.toml").write_text('[pro]\nscope = "tryon:pro"\n[anonymous]\nuploads_per_day = 0\n')
    pro, anonymous = load(str(tmp_path / "plans.toml")).quotas
    assert (pro.name, pro.scope, pro.uploads_per_day) == ("pro", "tryon:pro", None)
    assert (anonymous.name, anonymous.uploads_per_day) == ("anonymous", 0)
    [plan] = load('{"default": {"stored_bytes": 5, "processors": ["mock"]}}').quotas
    assert (plan.stored_bytes, plan.processors) == (5, ("mock",))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "missing.toml",
        '{"p": 5}',
        '{"p": {"uploads": 5}}',
        '{"p": {"uploads_per_day": -1}}',
        '{"p": {"uploads_per_day": true}}',
        '{"p": {"uploads_per_day": 1.5}}',
        '{"p": {"processors": "mock"}}',
        '{"p": {"processors": [5]}}',
        '{"p": {"scope": 5}}',
        "{" * 10_000,
    ],
)
def test_malformed_plans_stop_the_start(text: str) -> None:
    """With one line that names the setting."""
    with pytest.raises(ConfigError, match="TRYON_QUOTAS: "):
        load(text)


@pytest.mark.parametrize(
    ("plans", "claim", "says"),
    [
        ("{}", "tier", "TRYON_QUOTA_CLAIM needs TRYON_QUOTAS"),
        ('{"default": {}, "pro": {"uploads_per_day": 9}}', "", "no client can have plan 'pro'"),
        ('{"Default": {"uploads_per_day": 9}}', "", "no client can have plan 'Default'"),
    ],
)
def test_plans_that_limit_no_client_stop_the_start(plans: str, claim: str, says: str) -> None:
    """Else a misspelt name would grant everything in silence."""
    with pytest.raises(ConfigError, match=says):
        Config.load({"TRYON_QUOTAS": plans, "TRYON_QUOTA_CLAIM": claim}, env_file=None)


ISSUER: Final = {"TRYON_JWT_ISSUER": "https://id.example", "TRYON_JWT_AUDIENCE": "tryon"}


@pytest.mark.parametrize(
    ("plans", "users", "says"),
    [
        ("{}", ISSUER, None),
        ('{"default": {}, "pro": {"scope": "pro"}}', ISSUER, None),
        ('{"anonymous": {}}', {}, None),
        ('{"anonymous": {}}', ISSUER, "does not limit users whose JWT leads to no other plan: it"),
        ('{"pro": {"scope": "pro"}}', {}, "does not limit clients without a JWT: it"),
        ('{"pro": {"scope": "pro"}}', ISSUER, "no other plan and clients without a JWT: it"),
        ('{"pro": {"scope": "pro"}}', ISSUER | {"TRYON_ANONYMOUS": "off"}, "no other plan: it"),
    ],
)
def test_callers_without_limit_are_named(plans: str, users: dict[str, str], says: str | None) -> None:
    """Of plans without `default`; an empty one says that it is meant."""
    found = callers_without_limit(Config.load({"TRYON_QUOTAS": plans} | users, env_file=None))
    assert found is None if says is None else says in (found or "")


def test_names_of_settings_are_those_that_callers_have() -> None:
    """Settings and rules know nothing of each other; the names are the same."""
    assert (quotas.ANONYMOUS, quotas.DEFAULT) == RESERVED
