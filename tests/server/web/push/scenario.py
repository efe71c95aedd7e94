"""The lengths and chances of one run of the simulation, drawn at random."""

from __future__ import annotations

import random
from dataclasses import dataclass


class Chance(random.Random):
    """The source of all chance of one run."""

    bytes = random.Random.randbytes


@dataclass(frozen=True, slots=True)
class Scenario:
    """The lengths and chances of one run."""

    sessions: int
    """Sessions at a time; an ended one makes room for the next."""
    clients: int
    read_seconds: float
    """Maximum time of a read before, and after, its snapshot."""
    show_seconds: float
    """Maximum time between a client's read and its release."""
    move_seconds: tuple[float, ...]
    """Maximum times between two transitions of a session."""
    lasting: int
    """How much likelier a session goes on than that it ends."""
    erased: float
    """Share of the transitions instead of which the session is erased."""
    lost: float
    """Share of the messages that are lost."""
    slow: float
    """Share of the events that find their client too slow."""
    outages: tuple[str, ...]
    """What becomes unavailable from time to time: the database, Redis."""

    @classmethod
    def of(cls, chance: Chance) -> Scenario:
        """Draw a scenario."""
        return cls(
            sessions=chance.randint(1, 3),
            clients=chance.randint(1, 5),
            read_seconds=chance.choice((0.02, 0.1, 0.3)),
            show_seconds=chance.choice((0.0, 0.5)),
            move_seconds=chance.choice(((0.05, 0.5, 4.0), (0.1, 1.0), (0.3,))),
            lasting=chance.choice((2, 8, 30)),
            erased=chance.choice((0.0, 0.05, 0.15)),
            lost=chance.choice((0.0, 0.1, 0.4)),
            slow=chance.choice((0.0, 0.02, 0.1)),
            outages=chance.choice(((), (), ("database",), ("redis",), ("database", "redis"))),
        )

    @property
    def prompt_seconds(self) -> float:
        """Maximum time to fill a hole while the database answers: two reads.

        The first may have begun before the hole was known.
        """
        return 4 * self.read_seconds + 0.001
