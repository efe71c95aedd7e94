"""A verdict in words or in JSON: findings first, then figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from server.chaos.verdict import KINDS, Loss, Sight, Verdict

EXAMPLES: Final = 5
"""Findings of a kind that are printed in full."""


def report(verdict: Verdict) -> str:
    """Return the tables of a verdict, the counts of findings first."""
    kinds = [[kind.value, verdict.count(kind), meaning] for kind, meaning in KINDS.items()]
    parts = [table(["finding", "count", "meaning"], kinds)]
    for kind in KINDS:
        found = [finding for finding in verdict.findings if finding.kind is kind]
        for finding in found[:EXAMPLES]:
            where = " ".join(part for part in (finding.session, finding.client) if part)
            parts.append(f"{kind}: {where}: {finding.detail}" + (f" (at {finding.t:.3f})" if finding.t else ""))
        if len(found) > EXAMPLES:
            parts.append(f"{kind}: and {len(found) - EXAMPLES} more")
    ends = ", ".join(f"{count} {end}" for end, count in sorted(verdict.ends.items()))
    parts += [
        "",
        f"{verdict.sessions} sessions ({ends}), {verdict.screens} screens, {len(verdict.sights)} sights, "
        f"{verdict.strangers} doors tried by strangers",
        f"refused: {_counts(verdict.refused)}",
        f"connections lost, by code: {_counts(_by_code(verdict.losses))}",
        "",
        staleness("over", verdict.sights, lambda sight: sight.over),
    ]
    if not verdict.clocks:
        parts.append("The clocks were not compared: that of the system is taken for right.")
    if verdict.faults:
        rows = _by(verdict.sights, lambda sight: sight.fault)
        body = [[name, count, *_figures(rows.get(name, []))] for name, count in sorted(verdict.faults.items())]
        parts += ["", table(["since the fault", "times", *FIGURES], body)]
    return "\n".join(parts)


def json_lines(verdict: Verdict) -> str:
    """Return each finding as a line of JSON, then the counts and figures as one."""
    stale, late = sorted(sight.stale for sight in verdict.sights), sorted(sight.late for sight in verdict.sights)
    figures = {
        "findings": {kind.value: verdict.count(kind) for kind in KINDS},
        "sessions": verdict.sessions,
        "ends": verdict.ends,
        "screens": verdict.screens,
        "sights": len(verdict.sights),
        "strangers": verdict.strangers,
        "refused": verdict.refused,
        "losses": _by_code(verdict.losses),
        "faults": verdict.faults,
        "stale_seconds": {"p50": percentile(stale, 0.5), "p99": percentile(stale, 0.99), "max": stale[-1]}
        if stale
        else None,
        "late_seconds": {"p99": percentile(late, 0.99), "max": late[-1]} if late else None,
    }
    return "\n".join(msgspec.json.encode(each).decode() for each in [*verdict.findings, figures])


def _by_code(losses: Counter[Loss]) -> Counter[str]:
    codes: Counter[str] = Counter()
    for loss, count in losses.items():
        codes[str(loss.code)] += count
    return codes


FIGURES: Final = ("sights", "stale p50", "p99", "worst", "late p99", "worst")
"""Columns, in seconds.

Stale: while connected and not shown it. Late: since the commit.
"""


def staleness(what: str, sights: Sequence[Sight], group: Callable[[Sight], str]) -> str:
    rows = sorted(_by(sights, group).items())
    return table([what, *FIGURES], [[name, *_figures(some)] for name, some in [*rows, ("all", sights)]])


def _by(sights: Sequence[Sight], group: Callable[[Sight], str]) -> dict[str, list[Sight]]:
    groups: dict[str, list[Sight]] = defaultdict(list)
    for sight in sights:
        groups[group(sight)].append(sight)
    return groups


def _figures(sights: Sequence[Sight]) -> list[str]:
    stale, late = sorted(sight.stale for sight in sights), sorted(sight.late for sight in sights)
    if not sights:
        return ["0", *["-"] * (len(FIGURES) - 1)]
    figures = (percentile(stale, 0.5), percentile(stale, 0.99), stale[-1], percentile(late, 0.99), late[-1])
    return [str(len(sights)), *(f"{seconds:.3f}" for seconds in figures)]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return a percentile of sorted values, by nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _counts(counter: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table: figures to the right, the first column and text to the left."""
    texts = [list(columns), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[n]) for row in texts) for n in range(len(columns))]
    words = [n == 0 or any(row[n][:1].isalpha() for row in texts[1:]) for n in range(len(columns))]
    lines = []
    for row in texts:
        cells = zip(row, widths, words, strict=True)
        lines.append(
            "  ".join(text.ljust(width) if left else text.rjust(width) for text, width, left in cells).rstrip()
        )
    return "\n".join(lines)
