"""The parts of the database, opened and closed together.

Consumers take the parts that they need, never the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.adapters.database.attempts import AttemptWriter
from server.adapters.database.chore_leases import ChoreLeases
from server.adapters.database.cleanups import Cleanups
from server.adapters.database.clock import DatabaseClock
from server.adapters.database.commits import Commits
from server.adapters.database.deliveries import Deliveries
from server.adapters.database.due import DueSessions
from server.adapters.database.engine import DEFAULTS, Connections, create_engine
from server.adapters.database.feed import Feed
from server.adapters.database.operator_actions import OperatorActions
from server.adapters.database.overview import OverviewReader
from server.adapters.database.processors import Processors
from server.adapters.database.quotas import QuotaCounts
from server.adapters.database.reading import SessionReader
from server.adapters.database.upkeep import Upkeep
from server.adapters.database.usage_events import UsageOutbox
from server.adapters.database.writing import SessionWriter
from server.config.database_settings import DatabaseSettings
from server.system.clock import Clock


@dataclass(frozen=True, slots=True)
class Database:
    """One process's use of the database; all parts share its connections."""

    connections: Connections
    clock: DatabaseClock
    writer: SessionWriter
    attempts: AttemptWriter
    reader: SessionReader
    due: DueSessions
    feed: Feed
    chore_leases: ChoreLeases
    cleanups: Cleanups
    upkeep: Upkeep
    commits: Commits
    deliveries: Deliveries
    usage_outbox: UsageOutbox
    quotas: QuotaCounts
    processors: Processors
    overview: OverviewReader
    operator_actions: OperatorActions

    async def close(self) -> None:
        """Close all connections, those in use when they are given back."""
        await self.connections.close()


def open_database(database_url: str, *, clock: Clock, settings: DatabaseSettings = DEFAULTS) -> Database:
    """Build all parts over one pool of connections, which connects when first used."""
    connections = Connections(create_engine(database_url, settings))
    database_clock = DatabaseClock(connections, clock=clock)
    return Database(
        connections=connections,
        clock=database_clock,
        writer=SessionWriter(connections, clock=database_clock),
        attempts=AttemptWriter(connections),
        reader=SessionReader(connections),
        due=DueSessions(connections),
        feed=Feed(connections),
        chore_leases=ChoreLeases(connections),
        cleanups=Cleanups(connections),
        upkeep=Upkeep(connections),
        commits=Commits(connections),
        deliveries=Deliveries(connections),
        usage_outbox=UsageOutbox(connections),
        quotas=QuotaCounts(connections, clock=database_clock),
        processors=Processors(connections),
        overview=OverviewReader(connections),
        operator_actions=OperatorActions(connections),
    )
