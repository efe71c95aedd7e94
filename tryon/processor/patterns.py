"""The cost of a regular expression, judged before it meets a client's text.

Python's ``re`` tries one way after the other: a pattern with nested repeats may try
more ways for thirty characters than a machine can in a year, and nothing stops it
meanwhile. So a pattern of a schema is taken apart, and refused unless its ways can be
counted and are few.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as op  # Python's own parser, without a public name
from re import _parser
from typing import Any, Final

MAX_PATTERN_CHARACTERS: Final = 256

MAX_WAYS: Final = 4_000_000
"""Ways to match that a pattern may have at worst: about 40 ms."""

_BEGINNINGS: Final = (op.AT_BEGINNING, op.AT_BEGINNING_STRING)
_PLAIN: Final = frozenset({op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN, op.AT})


class CostlyPattern(ValueError):
    """The pattern is malformed, or could take too long."""


class Pattern:
    """A pattern that was judged for texts of up to ``longest`` characters.

    Raises CostlyPattern, which says why.
    """

    __slots__ = ("_anchored", "_compiled", "_parsed")

    def __init__(self, pattern: str, *, longest: int) -> None:
        if len(pattern) > MAX_PATTERN_CHARACTERS:
            raise CostlyPattern(f"it has more than {MAX_PATTERN_CHARACTERS} characters")
        try:
            self._compiled = re.compile(pattern)
            self._parsed = list(_parser.parse(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise CostlyPattern(f"it is no regular expression: {error}") from None
        begins = self._parsed[:1]
        self._anchored = bool(begins) and begins[0][0] is op.AT and begins[0][1] in _BEGINNINGS
        if self.ways(longest) > MAX_WAYS:
            raise CostlyPattern("it could take too long: begin it with ^, repeat less, or give a maxLength beside it")

    def __repr__(self) -> str:
        return f"<Pattern {self._compiled.pattern}>"

    def ways(self, longest: int) -> int:
        """Return how many ways a text of this length may be tried in."""
        return _ways(self._parsed, longest, repeated=False) * (1 if self._anchored else max(longest, 1))

    def search(self, text: str) -> bool:
        """Return whether the pattern is found in a text."""
        return self._compiled.search(text) is not None


def check_pattern(pattern: str, *, longest: int) -> None:
    """Refuse a pattern that could take too long on a text of ``longest`` characters.

    Raises CostlyPattern, which says why.
    """
    Pattern(pattern, longest=longest)


def _ways(parsed: Iterable[Any], longest: int, *, repeated: bool) -> int:
    """Return how many ways there are at most to match this part of a pattern."""
    ways = 1
    for kind, value in parsed:
        if kind in _PLAIN:
            continue
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            least, most, inner = value
            choices = max(1, min(most, longest) - least + 1)
            if repeated and choices > 1:
                raise CostlyPattern("it has a repeat within a repeat")
            ways *= choices * _ways(inner, longest, repeated=repeated or most > 1)
        elif kind is op.SUBPATTERN:
            ways *= _ways(value[-1], longest, repeated=repeated)
        elif kind is op.BRANCH:
            if repeated:
                raise CostlyPattern("it has alternatives within a repeat")
            ways *= sum(_ways(each, longest, repeated=repeated) for each in value[1])
        else:
            raise CostlyPattern("it has a back reference, a look-around, or another part that cannot be judged")
    return ways
