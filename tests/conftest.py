"""The old address of the types of the shared fixtures."""

from testkit.fixtures import StartStack, StartValkey, disk_of
from testkit.plugin import missing, note

__all__ = ["StartStack", "StartValkey", "disk_of", "missing", "note"]
