"""The rights that the product needs of Redis, and a check that it has them.

Redis judges the rights of a command when it is queued in a transaction, so one that is
discarded asks for every right and changes nothing. ``docs/redis.md`` has the ACL lines
that grant them.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix, retry_key_prefix
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.adapters.redis.errors import refused_for_good

Command = tuple[str, ...]


class Role(Enum):
    """The kinds of processes, which need different rights."""

    WEB = "web"
    WORKER = "worker"


# P: begins every key and channel. Q: the name of the queue.
_NEWS: Final = (
    "PUBLISH P:session:x 1|PUBLISH P:owner:x 1|EVALSHA x 1 P:progress:x|EVAL x 1 P:progress:x|SCRIPT LOAD x|EXISTS P:erased:x|"
    "HGET P:progress:x at|HSET P:progress:x at 1|EXPIRE P:progress:x 1|SET P:erased:x 1|DEL P:progress:x|GET P:file|"
    "SCAN 0|TIME|ZREMRANGEBYSCORE P:uploads:x 0 1|ZCARD P:uploads:x|ZADD P:uploads:x 1 x|PEXPIRE P:uploads:x 1|"
    "ZRANGE P:uploads:x 0 0|ZCARD P:wrong-operators:x|ZCARD P:crashes:x"
)
_QUEUE: Final = (
    "EVALSHA x 1 P:workers|EVAL x 1 P:workers|SCRIPT LOAD x|SET JOB 1|ZADD Q 1 x|PUBLISH P:doorbell 1|"
    "PUBLISH P:cancel 1|PUBLISH P:crash 1|ZCARD Q|ZSCORE Q x|EXISTS JOB|EXISTS P:memory|SET P:memory 1|ZRANGE Q 0 0|"
    "LPUSH P:runs:x 1|LTRIM P:runs:x 0 1|EXPIRE P:runs:x 1|LRANGE P:runs:x 0 1|ZREM Q x|UNLINK JOB MARK TRY RESULT|"
    "ZADD P:workers 1 x|ZREMRANGEBYSCORE P:workers 0 1|EXPIRE P:workers 1|ZRANGE P:workers 0 0|TIME"
)
_OF_ROLE: Final[dict[tuple[Role, bool], str]] = {
    (Role.WEB, False): "SUBSCRIBE P:session:x|SUBSCRIBE P:owner:x|SUBSCRIBE P:probe:x|UNSUBSCRIBE P:session:x|"
    "GET P:quota:x|SET P:quota:x 1|"
    "EVALSHA x 1 P:webs|EVAL x 1 P:webs|ZADD P:webs 1 x|ZREM P:webs x|ZREMRANGEBYSCORE P:webs 0 1|EXPIRE P:webs 1|"
    "ZRANGE P:webs 0 0|TIME",
    (Role.WORKER, True): "SUBSCRIBE P:doorbell|SUBSCRIBE P:cancel|SUBSCRIBE P:crash|GET JOB|DEL JOB|DEL MARK TRY|"
    "PSETEX HEALTH 1 x|DEL HEALTH|INFO|DBSIZE",
}
"""Rights of one role alone, by role and whether it is the queue's Redis."""

_OF_CLUSTERS: Final[tuple[Command, ...]] = (("CLUSTER", "SLOTS"), ("ASKING",))
"""Rights with which commands find their node."""


def needed(key_prefix: str, queue_name: str | None, role: Role | None) -> list[Command]:
    """Return a command for each right; ``queue_name`` None: of the news' Redis."""
    queue = queue_name is not None
    text = _QUEUE if queue else _NEWS
    if role is not None and (more := _OF_ROLE.get((role, queue))):
        text += f"|{more}"
    keys = {
        "Q": queue_name or "",
        "HEALTH": f"{queue_name}:health-check",
        "JOB": f"{job_key_prefix}x",
        "MARK": f"{in_progress_key_prefix}x",
        "TRY": f"{retry_key_prefix}x",
        "RESULT": f"{result_key_prefix}x",
    }
    commands = []
    for line in text.split("|"):
        words = (keys.get(word, word) for word in line.split())
        commands.append(tuple(key_prefix + word[2:] if word.startswith("P:") else word for word in words))
    return commands


async def missing_right(redis: Redis, commands: list[Command], *, sharded: bool = False) -> str | None:
    """Return Redis's words about the first right that is missing; None: all are there.

    ``sharded``: of a master of a cluster, where pub/sub is sharded; ask each of them.
    Raises ``errors.UNAVAILABLE``.
    """
    connection: Any = await redis.connection_pool.get_connection()
    try:
        if sharded:
            commands = [*_OF_CLUSTERS, *map(_sharded, commands)]
        asked: list[Command] = [("MULTI",), *commands, ("DISCARD",)]
        await connection.send_packed_command(connection.pack_commands(asked))
        missing = None
        for command in asked:
            try:
                await connection.read_response()
            except RedisError as error:
                if missing is None and refused_for_good(error):
                    missing = f"{' '.join(str(error).split()).rstrip('.')} ({' '.join(command[:2])})"
        return missing
    finally:
        await connection.disconnect()
        await redis.connection_pool.release(connection)


def _sharded(command: Command) -> Command:
    name = command[0]
    return (f"S{name}" if name in ("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE") else name, *command[1:])
