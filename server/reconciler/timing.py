"""The reconciler's times, in seconds, in one table.

Read as ``timing.NAME``, so that a test changes each in one place.
"""

from __future__ import annotations

from typing import Final

RECONCILE_SECONDS: Final = 2.0
"""Maximum time between two passes; one process at a time, by a database lease."""

PASS_SECONDS: Final = 1.0
"""Budget of a pass for each kind of work that can wait (erasing, enqueueing again).

The next pass follows at once and does the urgent work first.
"""

REMOVAL_SECONDS: Final = 2 * PASS_SECONDS
"""Maximum time that a pass waits for the removal of expired sessions: the storage may
answer nothing.
"""

UNQUEUED_SECONDS: Final = 5.0
"""Age at which a waiting session without a job in the queue is enqueued again."""

QUEUEING_SECONDS: Final = 1.0
"""Maximum time from a session's commit to its job, unless Redis is unavailable."""

ENQUEUE_SECONDS: Final = 1.0
"""Period in which a process retries the enqueues that failed."""

CLOCK_SECONDS: Final = 0.1
"""Maximum error of this process's reading of the database's clock."""

STUCK_SECONDS: Final = 30.0
"""Maximum delay until a session whose files cannot be deleted is tried again."""

CHORE_PAUSE_SECONDS: Final = 0.01
"""Pause between two of many small deletions: other writers have their turn."""

TOMBSTONE_PERIOD_SECONDS: Final = 10.0
"""Period in which old tombstones are deleted."""

CHORE_SECONDS: Final = 20.0
"""Maximum period in which the holder of a chore renews its lease, which lasts twice as
long; then another process takes over.
"""

END_SECONDS: Final = 1.0
"""Maximum time for the writes at the end of a process."""

SCRUB_SECONDS: Final = 0.5
"""Delay from an erasure until SQLite's log is emptied: once for all erasures in it."""

TRACES_SECONDS: Final = 5.0
"""Period in which Redis is asked again to forget erased sessions, and whether its file
must be rewritten.
"""

ORPHAN_SECONDS: Final = 3600.0
"""Age at which a file without a row is an orphan and no longer an upload in flight."""
