"""The one map from Redis's and the network's errors to the product's.

A call that fails with one of :data:`UNAVAILABLE` did not reach Redis, got no answer in
time or was refused. The bus and the limiter answer it themselves (events are read from
the database, requests are counted locally); the queue raises :class:`QueueUnavailable`.

A refusal is transient unless :data:`REFUSALS` says otherwise: the command is sent again
in its own time. Only one that is for good may switch a part off.
"""

from __future__ import annotations

from typing import Final

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

UNAVAILABLE: Final = (RedisError, OSError, TimeoutError)
"""Every error that a call to Redis can raise."""

REFUSALS: Final[dict[str, bool]] = {
    # Transient: memory, a disk, a failover or another command stands in the way.
    "OOM": False,
    "READONLY": False,
    "MISCONF": False,
    "LOADING": False,
    "BUSY": False,
    "NOREPLICAS": False,
    "MASTERDOWN": False,
    "CLUSTERDOWN": False,
    "TRYAGAIN": False,
    # For good: until an operator changes the user's rights, or the server.
    "NOPERM": True,
    "ACL failure in script": True,
    "unknown command": True,
    "unknown Redis command": True,
}
"""Whether a refusal is for good, by words of Redis's message; others are transient."""

_FOR_GOOD: Final = tuple(words.casefold() for words, lasts in REFUSALS.items() if lasts)
_TRANSIENT: Final = tuple(words for words, lasts in REFUSALS.items() if not lasts)

_KINDS: Final = (
    (NoPermissionError, "NOPERM"),
    (OutOfMemoryError, "OOM"),
    (ReadOnlyError, "READONLY"),
    (BusyLoadingError, "LOADING"),
    (MasterDownError, "MASTERDOWN"),
    (ClusterDownError, "CLUSTERDOWN"),
    (TryAgainError, "TRYAGAIN"),
)
"""The classes that redis-py has for some kinds; their messages lack the kind."""


class QueueUnavailable(Exception):
    """Redis does not answer, or refuses; the message says why."""


def refused_for_good(error: BaseException) -> bool:
    """Return whether Redis will refuse the same command again.

    False also for errors that are no refusal.
    """
    for kind, name in _KINDS:
        if isinstance(error, kind):
            return REFUSALS[name]
    return isinstance(error, ResponseError) and any(words in str(error).casefold() for words in _FOR_GOOD)


def refused_for_now(error: BaseException) -> bool:
    """Return whether Redis refuses for a reason that is known to pass by itself.

    Not the opposite of :func:`refused_for_good`: a refusal of an unknown kind is
    neither. At a start it is more likely a wrong address than a passing state.
    """
    for kind, name in _KINDS:
        if isinstance(error, kind):
            return not REFUSALS[name]
    return isinstance(error, ResponseError) and str(error).startswith(_TRANSIENT)
