"""The screen of ``tryon top`` as lines: pure, for any width and height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from server.cli.top_feed import Picture
from server.cli.wording import clipped, duration, printable, seconds_between
from server.domain.operator import SessionRow, State
from tryon.protocol.states import Status

FILTERS: Final = ("all", "active", str(Status.FAILED))
"""Sessions that are shown, in the order in which a key goes through them."""

BAR_CELLS: Final = 12
PANEL_LINES: Final = 4
"""Maximum lines of each table above the sessions."""

ROOM: Final = 20
"""Lines of a terminal below which only the sessions are shown."""

_ENDED: Final = frozenset({Status.COMPLETED.value, Status.FAILED.value, Status.CANCELLED.value})
_WORDS: Final = {Status.CREATED.value: "waiting", Status.PROCESSING.value: "running"}
_BLOCKS: Final = {Status.CREATED.value: "░", Status.PROCESSING.value: "█"}
_ASCII: Final = {Status.CREATED.value: ".", Status.PROCESSING.value: "#"}


class Line(NamedTuple):
    """One line; ``style`` is a name of :data:`~server.cli.top_run.STYLES`."""

    text: str
    style: str = ""


def screen(
    picture: Picture,
    *,
    server: str,
    status: str,
    columns: int,
    rows: int | None,
    blocks: bool = True,
    shown: str = "all",
    offset: int = 0,
) -> list[Line]:
    """Return what fits the terminal; ``rows`` None: all of it.

    ``status``: that of the connection; ``blocks``: the terminal can show more than
    ASCII; ``shown``: one of :data:`FILTERS`; ``offset``:
    how many sessions are scrolled away.
    """
    state = picture.state
    if state is None:
        return [Line(f"{server}  {status}", "title")]
    lines = [Line(_title(picture, server, status), "title"), Line(_numbers(state)), Line(_connections(state))]
    lines += [Line(each, "bad") for each in state.troubles]
    if rows is None or rows >= ROOM:
        lines += _panels(picture, state)
    sessions = [row for row in picture.sessions if _fits(row, shown)]
    lines.append(Line(""))
    lines.append(Line(f"{'SESSION':<36} {'STATUS':<10} {'AGE':>6} {'TRY':>3}  {'TIMELINE':<{BAR_CELLS}} ", "head"))
    room = len(sessions) if rows is None else max(0, rows - len(lines) - 1)
    offset = max(0, min(offset, len(sessions) - room))
    lines += [_session(row, state, _BLOCKS if blocks else _ASCII) for row in sessions[offset : offset + room]]
    if not sessions:
        lines.append(Line("No session." if shown == "all" else f"No session is {shown}.", "soft"))
    if rows is not None:
        lines = lines[: rows - 1] + [Line("")] * (rows - 1 - len(lines))
        above = f"{offset + 1} to {min(offset + room, len(sessions))} of " if offset or len(sessions) > room else ""
        lines.append(Line(f"{above}{len(sessions)} sessions ({shown})   f filter   j k scroll   q quit", "soft"))
    return [Line(clipped(printable(line.text), columns), line.style) for line in lines]


def _title(picture: Picture, server: str, status: str) -> str:
    return f"TryOn Push {picture.version}  {server}  {status}  operator {picture.operator}"


def _numbers(state: State) -> str:
    queue = state.queue
    old = f", oldest {duration(seconds_between(queue.oldest_at, state.now))}" if queue.oldest_at else ""
    jobs = "Redis unavailable" if queue.jobs is None else f"{queue.jobs} of {queue.limit} jobs"
    seen = sum(worker.seen_seconds is not None for worker in state.workers)
    failed = sum(each.count for each in state.failures)
    return f"Waiting {queue.waiting}{old}   Running {queue.running}   Queue {jobs}   Workers {seen}   Failed {failed} in 1 h"


def _connections(state: State) -> str:
    ways: dict[str, int] = {}
    for web in state.webs:
        for way, count in web.sockets.items():
            ways[way] = ways.get(way, 0) + count
    by_way = ", ".join(f"{way} {count}" for way, count in sorted(ways.items())) or "none"
    return (
        f"Connections {by_way}   Web processes {len(state.webs)}   Operators {sum(web.operators for web in state.webs)}"
    )


def _panels(picture: Picture, state: State) -> list[Line]:
    workers = [
        (
            each.worker,
            str(each.jobs),
            f"{each.processor or '-'} {each.version or ''}".strip(),
            _seconds(None if each.lease_expires_at is None else seconds_between(state.now, each.lease_expires_at)),
            "not seen" if each.seen_seconds is None else f"{each.seen_seconds:.0f} s ago",
        )
        for each in state.workers
    ]
    processors = [
        (
            each.processor,
            str(state.queue.by_processor.get(each.processor, 0)),
            str(each.completed),
            str(each.failed),
            _seconds(each.wait_p95),
            _seconds(each.run_p50),
            _seconds(each.run_p95),
        )
        for each in state.processors
    ]
    failures = [(each.code, str(each.count)) for each in state.failures]
    actions = [
        (each.at[11:19], each.operator, each.action, each.session_id or f"#{each.session}", each.outcome)
        for each in picture.actions
    ]
    heads = ("PROCESSOR", "WAIT", "DONE", "FAILED", "WAIT P95", "RUN P50", "RUN P95")
    return [
        *_table(("WORKER", "JOBS", "PROCESSOR", "LEASE", "SEEN"), workers),
        *_table(heads, processors),
        *_table(("FAILURE, LAST HOUR", "SESSIONS"), failures),
        *_table(("TIME UTC", "OPERATOR", "ACTION", "SESSION", "OUTCOME"), actions),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Line]:
    """Return a table behind an empty line; nothing without rows."""
    if not rows:
        return []
    first = rows[:PANEL_LINES]
    widths = [max(len(row[at]) for row in (heads, *first)) for at in range(len(heads))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *first)]
    more = [Line(f"and {len(rows) - len(first)} more", "soft")] if len(rows) > len(first) else []
    return [Line(""), Line(texts[0], "head"), *(Line(text.rstrip()) for text in texts[1:]), *more]


def _fits(row: SessionRow, shown: str) -> bool:
    return shown == "all" or (row.status == Status.FAILED if shown == Status.FAILED else row.status not in _ENDED)


def _session(row: SessionRow, state: State, bars: Mapping[str, str]) -> Line:
    status = "cancelling" if row.cancel_requested and row.status not in _ENDED else _WORDS.get(row.status, row.status)
    age = duration(int(seconds_between(row.created_at, state.now)))
    life = _life(row, state.now, bars)
    text = f"{row.session_id} {status:<10} {age:>6} {row.attempt:>3}  {life} {_told(row, state)}"
    style = {Status.FAILED.value: "bad", Status.PROCESSING.value: "run"}.get(row.status, "")
    return Line(text, style)


def _parts(row: SessionRow, now: str) -> list[tuple[str, float]]:
    """Return what a session did before its end, for how many seconds each."""
    ends = [*(step.at for step in row.steps[1:]), row.finished_at or now]
    spans = zip(row.steps, ends, strict=False)
    return [(step.status, max(0.0, seconds_between(step.at, end))) for step, end in spans if step.status not in _ENDED]


def _life(row: SessionRow, now: str, bars: Mapping[str, str]) -> str:
    parts = _parts(row, now)
    whole = sum(seconds for _, seconds in parts) or 1.0
    text = "".join(bars[status] * round(BAR_CELLS * seconds / whole) for status, seconds in parts)
    return text[:BAR_CELLS].ljust(BAR_CELLS)


def _told(row: SessionRow, state: State) -> str:
    parts = _parts(row, state.now)
    waited = sum(seconds for status, seconds in parts if status == Status.CREATED)
    ran = [seconds for status, seconds in parts if status == Status.PROCESSING]
    words = [f"wait {duration(waited)}"] + ([f"run {duration(ran[-1])}"] if ran else [])
    place = state.places.get(row.session_id)
    if row.status == Status.FAILED:
        words.append(row.error_code or "")
    elif row.status == Status.CREATED and place is not None and place.position is not None:
        words.append(f"place {place.position}")
    elif row.status == Status.PROCESSING:
        share = "" if place is None or place.progress is None else f"{place.progress:.0%} "
        words.append(f"{share}{(place and place.stage) or ''} on {row.worker or '-'}".strip())
    return "  ".join(words)


def _seconds(value: float | None) -> str:
    return "-" if value is None else duration(value)
