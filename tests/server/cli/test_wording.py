"""Sizes, times and places as a person reads them."""

from __future__ import annotations

from server.cli.wording import clipped, duration, ordinal, printable, seconds_between, size


def test_sizes_have_two_digits_or_three() -> None:
    """The unit follows the number."""
    assert [size(count) for count in (0, 1, 980, 2048, 500_000, 1_990_000, 12_000_000, 3 * 2**30)] == [
        "0 bytes", "1 byte", "980 bytes", "2.0 kB", "488 kB", "1.9 MB", "11 MB", "3.0 GB",
    ]  # fmt: skip


def test_durations_have_one_unit() -> None:
    """A time below zero, as a clock that is wrong makes it, is none."""
    seconds = (-3.0, 0.44, 9.9, 12.3, 4, 89, 90, 240, 7100, 7200, 86399, 2 * 86400)
    assert [duration(each) for each in seconds] == [
        "0.0 s", "0.4 s", "9.9 s", "12 s", "4 s", "89 s", "2 min", "4 min", "118 min", "2 h", "24 h", "2 d",
    ]  # fmt: skip


def test_ordinals_know_eleven() -> None:
    """The teens end alike."""
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th",
    ]  # fmt: skip


def test_times_of_the_protocol_are_subtracted() -> None:
    """Zulu time, with milliseconds."""
    assert seconds_between("2026-11-22T15:29:28.612Z", "2026-11-22T15:29:30.112Z") == 1.5


def test_printable_text_has_no_control_characters() -> None:
    """Escapes, line ends and marks of direction become spaces; letters stay."""
    assert printable("a\x1b[2J\n\u2028b\u202eü 服") == "a [2J  b ü 服"


def test_clipped_text_counts_cells() -> None:
    """Wide characters take two cells, combining ones none."""
    assert [clipped("服ab", cells) for cells in range(5)] == ["", "", "服", "服a", "服ab"]
    assert clipped("e\u0301e\u0301", 1) == "e\u0301"
