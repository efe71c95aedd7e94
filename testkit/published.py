"""The description of a processor that uploads of a test are judged by.

A web process without a worker has none: it refuses every upload.
"""

from __future__ import annotations

from server.adapters.database.database import open_database
from server.sessions.processors import ProcessorDirectory
from server.system.clock import SystemClock
from tryon.processor import Info
from tryon.processor.description import describe


async def publish_description(database_url: str, setting: str = "mock") -> None:
    """Publish the mock's roles as those of a worker that has stopped."""
    database = open_database(database_url, clock=SystemClock())
    try:
        directory = ProcessorDirectory(rows=database.processors, setting=setting, clock=SystemClock())
        await directory.publish("testkit", describe(Info(name="mock")))
        await directory.withdraw("testkit")
    finally:
        await database.close()
