"""The checkpoint of a piece of work."""

from __future__ import annotations

import json

import pytest

from tryon.processor import ProcessorError
from tryon.processor.validation import checkpoint_text
from worker.processors.httpjob.outcome import State, links_of, work_of


def test_checkpoint_that_grows_drops_its_oldest() -> None:
    """It stays within the bound of the interface, and still names the current work."""
    long = [{"id": f"{number}-{'x' * 1000}", "url": "y" * 1000} for number in range(40)]
    state = State(tuple(long[:8]), uploads=tuple(long))
    text = checkpoint_text(state.as_json())
    assert text.count("7-xxx") == 1
    found = State.of(state.as_json())
    assert found.current == long[7]
    assert found.uploads == ()
    fits = State.of(State((long[0],), uploads=tuple(long)).as_json())
    assert fits.works == (long[0],)
    assert fits.uploads == tuple(long[-len(fits.uploads) :])


def test_links_alone_are_kept() -> None:
    """A picture in the answer itself is none, and a long list would not fit."""
    link = "https://a.example/x.png"
    assert links_of([link, link]) == (link, link)
    assert links_of([link, "data:image/png;base64,AA=="]) == links_of(["/9j/4AAQ"]) == links_of([link, 7]) == ()
    assert links_of([f"{link}?{'x' * 10_000}"]) == ()


@pytest.mark.parametrize("letter", ["x", "é", "😀", '"'])
def test_checkpoint_keeps_the_current_work_beside_the_longest_links(letter: str) -> None:
    """Bytes of JSON are counted, of which a letter takes up to twelve."""
    size = len(json.dumps(letter)) - 2
    links = links_of([f"https://{letter * (8150 // size)}"])
    assert links
    body = {f"name{number}": letter * (1000 // size) for number in range(5)}
    work = work_of(body, {name: name for name in body}, ())
    earlier = tuple({"id": f"{n}", "url": "y" * 900} for n in range(8))
    state = State((*earlier, work), uploads=({"file": "z" * 900},) * 64, links=links)
    checkpoint_text(state.as_json())
    found = State.of(state.as_json())
    assert (found.current, found.links) == (work, links)


def test_names_without_a_value_are_left_out_unless_needed() -> None:
    """A number is a name; a list, null or a long text is none."""
    body = {"a": 1, "b": None, "c": [["x"]], "d": "é" * 200, "e": "e"}
    keep = {name: name for name in "abcdef"}
    assert work_of(body, keep, {"a", "e"}) == {"a": 1, "e": "e"}
    for name in "bcdf":
        with pytest.raises(ProcessorError):
            work_of(body, keep, {name})
    many = {f"n{number}": "x" * 1000 for number in range(7)}
    with pytest.raises(ProcessorError):
        work_of(many, {name: name for name in many}, ())
