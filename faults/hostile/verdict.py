"""The findings of a hostile run: crashes, answers of the kind 5xx, leaks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

SHOWN: Final = 20
"""Findings of a kind that are printed in full."""


@dataclass
class Verdict:
    """The findings of a run, and what became of all inputs.

    ``crashes``: ends of the server or of its parts that no limit explains, exceptions
    that are no refusal, stack traces, and a clean photo with more than pixels in it.
    """

    crashes: list[str] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def __repr__(self) -> str:
        return f"<Verdict {self.line}>"

    @property
    def line(self) -> str:
        """The last line of a run: ``0 crashes, 0 5xx, 0 leaks``."""
        return f"{len(self.crashes)} crashes, {len(self.server_errors)} 5xx, {len(self.leaks)} leaks"

    @property
    def clean(self) -> bool:
        return not (self.crashes or self.server_errors or self.leaks)

    def report(self) -> str:
        """Return the outcomes, the findings and the last line."""
        lines = [f"  {count:>9,} {name}" for name, count in self.outcomes.most_common()]
        for kind, found in (("crash", self.crashes), ("5xx", self.server_errors), ("leak", self.leaks)):
            lines += [f"{kind}: {each}" for each in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"{kind}: {len(found) - SHOWN} more")
        return "\n".join([*lines, self.line])
