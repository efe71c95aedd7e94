"""The rights that a process asks Redis for at its start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from server.adapters.redis.connect import open_redis
from server.adapters.redis.exhausted import ExhaustedSubjects
from server.adapters.redis.rights import Role, missing_right, needed
from server.domain.quotas import Plan, Quota, day_of
from testkit.values import new_session_id


@pytest.fixture
async def guarded(redis_url: str) -> AsyncIterator[Redis]:
    """Connect as a user that may do everything, but not with the keys of quotas."""
    user = new_session_id()
    async with Redis.from_url(redis_url) as admin:
        await admin.execute_command("ACL", "SETUSER", user, "on", "nopass", "+@all", "&*", "~tryon:[^q]*")
        async with Redis.from_url(redis_url, username=user, password="any") as redis:
            yield redis
        await admin.execute_command("ACL", "DELUSER", user)


async def test_missing_right_to_remember_quotas_is_found(guarded: Redis) -> None:
    """Without it each refusal of a quota would be asked of the database, in silence."""
    assert await missing_right(guarded, needed("tryon:", None, Role.WORKER)) is None
    missing = await missing_right(guarded, needed("tryon:", None, Role.WEB))
    assert missing is not None and missing.endswith("(GET tryon:quota:x)")


async def test_remembered_quota_needs_no_right_that_is_not_asked_for(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands and keys are among those of a web process."""
    quota = Quota(plan=Plan(name="basic", uploads_per_day=1), subject="x", by_address=False)
    redis, now, sent = open_redis(redis_url), 1_800_000_000.0, list[tuple[str, str]]()
    execute: Any = redis.execute_command

    async def noting(name: str, key: str, *arguments: Any, **options: Any) -> Any:
        sent.append((name, key))
        return await execute(name, key, *arguments, **options)

    monkeypatch.setattr(redis, "execute_command", noting)
    async with redis:
        subjects = ExhaustedSubjects(redis, key_prefix="tryon:")
        await subjects.note(quota, day=day_of(now), now=now)
        assert await subjects.has(quota, now=now)
    asked = {command[:2] for command in needed("tryon:", None, Role.WEB)}
    assert [name for name, _ in sent] == ["SET", "GET"]
    assert {(name, key.replace(f"{day_of(now)}:", "")) for name, key in sent} <= asked
