"""The checkpoint of a piece of work."""

from __future__ import annotations

from tryon.processor.validation import checkpoint_text
from worker.processors.httpjob.outcome import State, links_of


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
