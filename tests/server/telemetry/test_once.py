"""Messages that are logged once."""

from __future__ import annotations

from server.telemetry.once import Once


def test_key_is_new_once_and_again_when_it_was_over() -> None:
    """An evicted key may be logged again: memory has a bound."""
    once = Once(max_keys=2)
    assert [once.first(key) for key in ("a", "b", "a")] == [True, True, False]
    assert [once.over("a"), once.over("a"), once.first("a")] == [True, False, True]
    assert [once.first(key) for key in ("c", "b", "c")] == [True, True, False], "b was the oldest"
