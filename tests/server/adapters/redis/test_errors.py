"""A refused command is judged by its kind, as a real server words it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from server.adapters.redis.errors import REFUSALS, refused_for_good, refused_for_now
from testkit.fixtures import StartValkey
from testkit.servers import ValkeyServer

TRANSIENT = {
    "OOM": ("CONFIG SET maxmemory 1",),
    "READONLY": ("REPLICAOF 127.0.0.1 1",),
    "MASTERDOWN": ("CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"),
    "NOREPLICAS": ("CONFIG SET min-replicas-to-write 1",),
    "BUSY": ("CONFIG SET busy-reply-threshold 1",),
}
"""Commands after which Valkey refuses a SET in this way."""


async def refusal(valkey: ValkeyServer, *command: str) -> RedisError:
    """Return the error by which Valkey refuses a command."""
    with pytest.raises(RedisError) as refused:
        await valkey.command(*command)
    return refused.value


async def refusal_in_transaction(valkey: ValkeyServer, *command: str) -> RedisError:
    async with valkey.client() as client, client.pipeline(transaction=True) as pipe:
        pipe.execute_command(*command)
        with pytest.raises(RedisError) as refused:
            await pipe.execute()
    return refused.value


@pytest.mark.parametrize("kind", TRANSIENT)
async def test_refusal_of_the_moment_is_transient(start_valkey: StartValkey, kind: str) -> None:
    """Judge what memory, a failover or a script is the cause of as transient."""
    valkey = start_valkey()
    for each in TRANSIENT[kind]:
        await valkey.command(*each.split())
    spinning = None
    if kind == "BUSY":
        spinning = asyncio.create_task(valkey.command("EVAL", "while true do end", "0"))
        async with asyncio.timeout(10):
            while True:  # nothing announces that the script has run for a millisecond
                with contextlib.suppress(RedisError):
                    await valkey.command("GET", "a")
                    continue
                break
    command = ("GET", "a") if kind == "MASTERDOWN" else ("SET", "a", "1")
    error = await refusal(valkey, *command)
    # redis-py takes the kind away where it has a class for it.
    assert kind in str(error) or isinstance(error, OutOfMemoryError | ReadOnlyError | MasterDownError)
    assert not refused_for_good(error)
    if spinning is not None:
        await valkey.command("SCRIPT", "KILL")
        with pytest.raises(RedisError):
            await spinning


@pytest.mark.parametrize("kind", [kind for kind, lasts in REFUSALS.items() if not lasts])
def test_transient_kinds_are_known_by_their_word(kind: str) -> None:
    """Judge an answer by its first word, whatever class redis-py makes of it."""
    assert not refused_for_good(BaseParser.parse_error(f"{kind} some words for an operator"))  # type: ignore[no-untyped-call]  # redis-py 5


async def test_missing_right_and_unknown_command_are_for_good(start_valkey: StartValkey) -> None:
    """Give up what the server will refuse again, inside a pipeline and a script too."""
    valkey = start_valkey()
    await valkey.command("ACL", "SETUSER", "default", "-bgrewriteaof", "-ping")
    for command in ("BGREWRITEAOF", "PING", "NOSUCHCOMMAND"):
        assert refused_for_good(await refusal(valkey, command))
        assert refused_for_good(await refusal_in_transaction(valkey, command))
        if command != "BGREWRITEAOF":  # no script may call it
            assert refused_for_good(await refusal(valkey, "EVAL", f"return redis.call('{command}')", "0"))


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusal_for_now_has_known_kind(kind: str) -> None:
    """A refusal of no known kind passes neither by itself nor never."""
    error = BaseParser.parse_error(f"{kind} some words for an operator")  # type: ignore[no-untyped-call]  # redis-py 5
    assert refused_for_now(error) is not REFUSALS[kind]


def test_silence_is_no_refusal() -> None:
    """Call no error final that is not an answer of the server."""
    assert not any(map(refused_for_good, (TimeoutError(), ConnectionResetError(), RedisError("NOPERM"))))
    unknown = ResponseError("DB index is out of range")
    assert not any(map(refused_for_now, (TimeoutError(), ConnectionResetError(), RedisError("MISCONF"), unknown)))
