"""The judgement of calls: refusals, pictures, lists, and doors tried by strangers."""

from __future__ import annotations

from typing import Final

from server.chaos import rules
from server.chaos.facts import Facts
from server.chaos.records import GaveUp, Listed, Refused, Result, Stranger
from server.chaos.verdict import Kind, Verdict

SHAPE_SHARE: Final = 0.003
"""Largest difference in shape between a result and its photo; two photos differ by
twice as much.
"""

_MAKING: Final = frozenset({"upload", "retry"})
"""Calls that make a session."""


class Answers:
    """The answers of a run.

    ``abandoned``: calls that may have made a session without their owner learning of
    it.
    """

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        self.abandoned = 0
        self._facts = facts
        self._verdict = verdict

    def __repr__(self) -> str:
        return f"<Answers abandoned={self.abandoned}>"

    def refused(self, record: Refused) -> None:
        """Judge whether a refusal was honest."""
        self._verdict.refused[f"{record.call} {record.status or 'no answer'}"] += 1
        self.abandoned += record.call in _MAKING and record.status == 404
        session = record.session
        if record.status == 404 and session is not None and self._facts.may_be_gone(session, record.t):
            return
        if record.status not in rules.HONEST_REFUSALS:
            detail = f"{record.owner} {record.call}: {record.status} {record.code}"
            self._verdict.found(Kind.ERROR, detail, None, None, record.t)

    def gave_up(self, record: GaveUp) -> None:
        """Count a call that was refused until its owner gave up."""
        self.abandoned += record.call in _MAKING
        self._verdict.found(Kind.UNSERVED, f"{record.owner} gave up: {record.call}", None, None, record.t)

    def listed(self, record: Listed) -> None:
        """Judge whether an owner has only sessions that were accepted."""
        for session in record.sessions:
            if session not in self._facts.accepted:
                detail = f"{record.owner} has a session it never asked for"
                self._verdict.found(Kind.DUPLICATED, detail, session, None, record.t)

    def stranger(self, record: Stranger) -> None:
        """Judge whether a stranger saw a session, or could learn that it exists."""
        self._verdict.strangers += 1
        door = f"{record.owner} by {record.call}: {record.answer}"
        if record.saw or 200 <= record.answer < 300:
            self._verdict.found(Kind.FOREIGN, f"seen by {door}", record.session, None, record.t)
        elif record.answer not in rules.HIDDEN and record.answer not in rules.NO_ANSWER:
            detail = f"distinguished from an unknown one by {door}"
            self._verdict.found(Kind.FOREIGN, detail, record.session, None, record.t)

    def result(self, record: Result) -> None:
        """Judge whether a picture is there, and its owner's."""
        there = record.status == 200 and record.bytes > 0
        if not there and not self._facts.may_be_gone(record.session, record.t):
            detail = f"its {record.role} is a {record.status} of {record.bytes} bytes"
            self._verdict.found(Kind.WRONG, detail, record.session, None, record.t)
        elif there and record.own is not None and not _same_picture(record, record.own):
            detail = f"its {record.role} is a picture of {record.size}, its owner's photo one of {record.own}"
            self._verdict.found(Kind.FOREIGN, detail, record.session, None, record.t)


def _same_picture(record: Result, own: tuple[int, int]) -> bool:
    """Return whether a picture is the photo as sent, or a result of the same shape.

    Shapes of a few hundred whole pixels differ by rounding.
    """
    if record.size is None:
        return False
    (width, height), (own_width, own_height) = record.size, own
    if record.role == "input":
        return record.size == own
    return abs(width / height - own_width / own_height) < SHAPE_SHARE
